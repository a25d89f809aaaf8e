//! `#[derive(Message)]`.

mod fixed;

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{
    Attribute, Data, DeriveInput, Error, Expr, Fields, GenericParam, Ident, Lifetime, Member, Path,
    Result, Type, parse_quote,
};

use crate::shape::{Shape, count};

/// As many items as serde's tuples have at most.
const GROUP: usize = 16;

struct Field {
    member: Member,
    ty: Type,
    shape: Shape,
}

struct Variant {
    name: Ident,
    fields: Vec<Field>,
}

enum Body {
    Struct(Vec<Field>),
    Enum(Vec<Variant>),
}

struct Message {
    krate: Path,
    name: Ident,
    lifetime: Option<Lifetime>,
    /// The declared greatest encoded length of the whole.
    max: Option<Expr>,
    body: Body,
}

pub(crate) fn expand(item: TokenStream) -> Result<TokenStream> {
    let input: DeriveInput = syn::parse2(item)?;
    let options = read_options(&input.attrs)?;
    if options.fixed {
        return fixed::expand(&input, &options.krate);
    }
    Ok(Message::read(&input, options)?.write())
}

/// Adds `error` to those found before.
fn note(problems: &mut Option<Error>, error: Error) {
    match problems {
        None => *problems = Some(error),
        Some(problems) => problems.combine(error),
    }
}

/// What is said about the type as a whole.
struct Options {
    /// The path to `insula-ipc`.
    krate: Path,
    max: Option<Expr>,
    fixed: bool,
}

fn read_options(attributes: &[Attribute]) -> Result<Options> {
    let mut options = Options {
        krate: parse_quote!(::insula::ipc),
        max: None,
        fixed: false,
    };
    for attribute in attributes.iter().filter(|a| a.path().is_ident("message")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("crate") {
                options.krate = meta.value()?.call(Path::parse_mod_style)?;
            } else if meta.path.is_ident("max") {
                options.max = Some(meta.value()?.parse()?);
            } else if meta.path.is_ident("fixed") {
                options.fixed = true;
            } else {
                return Err(
                    meta.error("unknown option of a message; known: `max`, `fixed`, `crate`")
                );
            }
            Ok(())
        })?;
    }
    match &options.max {
        Some(max) if options.fixed => Err(Error::new_spanned(
            max,
            "a fixed layout has one length, which is that of the struct",
        )),
        _ => Ok(options),
    }
}

fn read_fields(fields: &Fields, problems: &mut Option<Error>) -> Vec<Field> {
    let mut read = Vec::new();
    for (field, member) in fields.iter().zip(fields.members()) {
        match Shape::of(&field.ty, &field.attrs) {
            Ok(shape) => read.push(Field {
                member,
                ty: field.ty.clone(),
                shape,
            }),
            Err(error) => note(problems, error),
        }
    }
    read
}

impl Message {
    fn read(input: &DeriveInput, options: Options) -> Result<Self> {
        let mut problems = None;
        let mut lifetime = None;
        for parameter in &input.generics.params {
            match parameter {
                GenericParam::Lifetime(one) if lifetime.is_none() && one.bounds.is_empty() => {
                    lifetime = Some(one.lifetime.clone());
                }
                GenericParam::Lifetime(_) | GenericParam::Type(_) | GenericParam::Const(_) => note(
                    &mut problems,
                    Error::new_spanned(
                        parameter,
                        "a message has at most one lifetime and nothing else",
                    ),
                ),
            }
        }
        let Options { krate, max, .. } = options;
        let body = match &input.data {
            Data::Struct(data) => Body::Struct(read_fields(&data.fields, &mut problems)),
            Data::Enum(data) => Body::Enum(
                data.variants
                    .iter()
                    .map(|variant| {
                        if let Some((_, number)) = &variant.discriminant {
                            note(
                                &mut problems,
                                Error::new_spanned(
                                    number,
                                    "variants are numbered by their order, not by discriminants",
                                ),
                            );
                        }
                        if let Some(surplus) =
                            variant.attrs.iter().find(|a| a.path().is_ident("message"))
                        {
                            note(
                                &mut problems,
                                Error::new_spanned(surplus, "belongs on a field of the variant"),
                            );
                        }
                        Variant {
                            name: variant.ident.clone(),
                            fields: read_fields(&variant.fields, &mut problems),
                        }
                    })
                    .collect(),
            ),
            Data::Union(data) => {
                return Err(Error::new_spanned(
                    data.union_token,
                    "a union is not a message",
                ));
            }
        };
        match problems {
            Some(problems) => Err(problems),
            None => Ok(Self {
                krate,
                name: input.ident.clone(),
                lifetime,
                max,
                body,
            }),
        }
    }

    fn write(&self) -> TokenStream {
        let Self {
            krate,
            name,
            lifetime,
            ..
        } = self;
        let serde = quote!(#krate::protocol::encoding::serde);
        let generics = lifetime
            .iter()
            .map(|l| quote!(<#l>))
            .collect::<TokenStream>();
        let statics = lifetime
            .iter()
            .map(|_| quote!(<'static>))
            .collect::<TokenStream>();
        let view = lifetime
            .iter()
            .map(|_| quote!(<'__view>))
            .collect::<TokenStream>();
        let decode_generics = match lifetime {
            Some(lifetime) => quote!(<'__de: #lifetime, #lifetime>),
            None => quote!(<'__de>),
        };
        let (encoded_max, schema) = (self.encoded_max(), self.schema());
        let (serialize, deserialize) = (self.serialize_impl(&generics), self.deserialize());
        // A whole ends where it may end, so that its length need not be counted.
        let whole = match &self.max {
            None => quote!(__value),
            Some(_) => quote!(&#krate::protocol::encoding::Content(__value)),
        };
        let variants = self.variants(&decode_generics, &generics);
        quote! {
            #[automatically_derived]
            impl #krate::contract::Message for #name #statics {
                type View<'__view> = #name #view;
                const ENCODED_MAX: usize = #encoded_max;
                fn schema() -> #krate::protocol::schema::TypeSchema {
                    #schema
                }
                #[inline]
                fn encode(
                    __value: &Self::View<'_>,
                    __place: &mut [u8],
                ) -> ::std::option::Option<usize> {
                    #krate::protocol::encoding::encode(#whole, __place, Self::ENCODED_MAX)
                }
                #[inline]
                fn decode(__bytes: &[u8]) -> ::std::option::Option<Self::View<'_>> {
                    #krate::protocol::encoding::decode(__bytes)
                }
            }

            #serialize

            #[automatically_derived]
            impl #decode_generics #serde::Deserialize<'__de> for #name #generics {
                #[inline]
                fn deserialize<__D: #serde::Deserializer<'__de>>(
                    __deserializer: __D,
                ) -> ::std::result::Result<Self, __D::Error> {
                    #deserialize
                }
            }

            #variants
        }
    }

    fn encoded_max(&self) -> TokenStream {
        let structural = self.structural_max();
        match &self.max {
            None => structural,
            Some(max) => {
                let krate = &self.krate;
                quote!(#krate::protocol::encoding::least(#structural, #max))
            }
        }
    }

    /// What follows from the parts.
    fn structural_max(&self) -> TokenStream {
        let krate = &self.krate;
        let of = |fields: &[Field]| {
            let each = fields.iter().map(|field| field.shape.encoded_max(krate));
            quote!((0 #(+ #each)*))
        };
        match &self.body {
            Body::Struct(fields) => of(fields),
            Body::Enum(variants) => {
                let last = variants.len().saturating_sub(1);
                let contents = variants.iter().map(|variant| of(&variant.fields));
                let encoding = quote!(#krate::protocol::encoding);
                quote!(#encoding::varint_length(#last) + #encoding::greatest(&[#(#contents),*]))
            }
        }
    }

    fn schema(&self) -> TokenStream {
        let krate = &self.krate;
        let schema = quote!(#krate::protocol::schema);
        let of = |fields: &[Field]| {
            let each = fields.iter().map(|field| {
                let (name, ty) = (member_name(&field.member), field.shape.schema(krate));
                quote!(#schema::FieldSchema { name: #name.into(), schema: #ty })
            });
            quote!(::std::vec![#(#each),*])
        };
        let structure = match &self.body {
            Body::Struct(fields) => {
                let fields = of(fields);
                quote!(#schema::TypeSchema::Struct(#fields))
            }
            Body::Enum(variants) => {
                let each = variants.iter().map(|variant| {
                    let (name, fields) = (variant.name.to_string(), of(&variant.fields));
                    quote!(#schema::VariantSchema { name: #name.into(), fields: #fields })
                });
                quote!(#schema::TypeSchema::Enum(::std::vec![#(#each),*]))
            }
        };
        match &self.max {
            None => structure,
            Some(max) => {
                let item = quote!(::std::boxed::Box::new(#structure));
                let max = count(max);
                quote!(#schema::TypeSchema::Limited { max: #max, item: #item })
            }
        }
    }

    /// How it is encoded as a part of something: within its limit, if it has one.
    fn serialize_impl(&self, generics: &TokenStream) -> TokenStream {
        let (krate, name, content) = (&self.krate, &self.name, self.serialize());
        let encoding = quote!(#krate::protocol::encoding);
        let serde = quote!(#encoding::serde);
        let function = |name: TokenStream, body: TokenStream| {
            quote! {
                #[inline]
                fn #name<__S: #serde::Serializer>(
                    &self,
                    __serializer: __S,
                ) -> ::std::result::Result<__S::Ok, __S::Error> {
                    #body
                }
            }
        };
        let Some(max) = &self.max else {
            let serialize = function(quote!(serialize), content);
            return quote! {
                #[automatically_derived]
                impl #generics #serde::Serialize for #name #generics {
                    #serialize
                }
            };
        };
        let unlimited = function(quote!(serialize_content), content);
        let limited = quote!(#encoding::limited(self, #max, __serializer));
        let serialize = function(quote!(serialize), limited);
        quote! {
            #[automatically_derived]
            impl #generics #encoding::Limited for #name #generics {
                #unlimited
            }

            #[automatically_derived]
            impl #generics #serde::Serialize for #name #generics {
                #serialize
            }
        }
    }

    fn serialize(&self) -> TokenStream {
        let krate = &self.krate;
        let serde = quote!(#krate::protocol::encoding::serde);
        let encoded = |field: &Field, value: TokenStream| {
            let codec = field.shape.codec(krate);
            quote!(#krate::protocol::encoding::Encoded::<#codec, _>::new(#value))
        };
        match &self.body {
            Body::Struct(fields) => {
                let each = fields.iter().map(|field| {
                    let member = &field.member;
                    encoded(field, quote!(&self.#member))
                });
                let content = tuple(each.collect());
                quote!(#serde::Serialize::serialize(&#content, __serializer))
            }
            Body::Enum(variants) if variants.is_empty() => quote!(match *self {}),
            Body::Enum(variants) => {
                let type_name = self.name.to_string();
                let arms = variants.iter().zip(0_u32..).map(|(variant, number)| {
                    let (name, text) = (&variant.name, variant.name.to_string());
                    if variant.fields.is_empty() {
                        return quote! {
                            Self::#name { .. } => #serde::Serializer::serialize_unit_variant(
                                __serializer, #type_name, #number, #text,
                            )
                        };
                    }
                    let bound = bindings(variant.fields.len());
                    let members = variant.fields.iter().map(|field| &field.member);
                    let each = variant.fields.iter().zip(&bound);
                    let content = tuple(
                        each.map(|(field, bound)| encoded(field, quote!(#bound)))
                            .collect(),
                    );
                    quote! {
                        Self::#name { #(#members: #bound),* } => {
                            #serde::Serializer::serialize_newtype_variant(
                                __serializer, #type_name, #number, #text, &#content,
                            )
                        }
                    }
                });
                quote!(match self { #(#arms),* })
            }
        }
    }

    /// The type that decodes `fields`, and the pattern that binds what it decoded.
    fn decoded(&self, fields: &[Field]) -> (TokenStream, TokenStream) {
        let krate = &self.krate;
        let types = fields.iter().map(|field| {
            let (codec, ty) = (field.shape.codec(krate), &field.ty);
            quote!(#krate::protocol::encoding::Decoded<#codec, #ty>)
        });
        let bound = bindings(fields.len());
        (
            tuple(types.collect()),
            tuple(bound.iter().map(|bound| quote!(#bound)).collect()),
        )
    }

    fn deserialize(&self) -> TokenStream {
        let krate = &self.krate;
        match &self.body {
            Body::Struct(fields) => {
                let (types, pattern) = self.decoded(fields);
                let bound = bindings(fields.len());
                let members = fields.iter().map(|field| &field.member);
                quote! {
                    let #pattern: #types =
                        #krate::protocol::encoding::serde::Deserialize::deserialize(__deserializer)?;
                    ::std::result::Result::Ok(Self { #(#members: #bound.0),* })
                }
            }
            Body::Enum(_) => quote!(#krate::protocol::encoding::decode_enum(__deserializer)),
        }
    }

    /// What an enum decodes its variants by.
    fn variants(&self, decode_generics: &TokenStream, generics: &TokenStream) -> TokenStream {
        let Body::Enum(variants) = &self.body else {
            return TokenStream::new();
        };
        let (krate, name) = (&self.krate, &self.name);
        let encoding = quote!(#krate::protocol::encoding);
        let access = quote!(#encoding::serde::de::VariantAccess);
        let text = name.to_string();
        let names = variants.iter().map(|variant| variant.name.to_string());
        let arms = variants.iter().zip(0_u32..).map(|(variant, number)| {
            let name = &variant.name;
            if variant.fields.is_empty() {
                return quote! {
                    #number => {
                        #access::unit_variant(__content)?;
                        ::std::result::Result::Ok(Self::#name {})
                    }
                };
            }
            let (types, pattern) = self.decoded(&variant.fields);
            let bound = bindings(variant.fields.len());
            let members = variant.fields.iter().map(|field| &field.member);
            quote! {
                #number => {
                    let #pattern: #types = #access::newtype_variant(__content)?;
                    ::std::result::Result::Ok(Self::#name { #(#members: #bound.0),* })
                }
            }
        });
        quote! {
            #[automatically_derived]
            impl #decode_generics #encoding::Variants<'__de> for #name #generics {
                const NAME: &'static str = #text;
                const VARIANTS: &'static [&'static str] = &[#(#names),*];
                #[inline]
                fn content<__A: #access<'__de>>(
                    __number: u32,
                    __content: __A,
                ) -> ::std::result::Result<Self, __A::Error> {
                    match __number {
                        #(#arms)*
                        _ => {
                            let _ = __content;
                            ::std::result::Result::Err(
                                #encoding::unknown_variant::<Self, _>(__number),
                            )
                        }
                    }
                }
            }
        }
    }
}

fn member_name(member: &Member) -> String {
    match member {
        Member::Named(name) => {
            let name = name.to_string();
            name.strip_prefix("r#").map_or(name.clone(), str::to_owned)
        }
        Member::Unnamed(index) => index.index.to_string(),
    }
}

fn bindings(count: usize) -> Vec<Ident> {
    (0..count)
        .map(|number| format_ident!("__field_{number}"))
        .collect()
}

/// A tuple of the items, of tuples where they are too many: on the wire it is the same.
fn tuple(items: Vec<TokenStream>) -> TokenStream {
    if items.len() <= GROUP {
        return quote!((#(#items,)*));
    }
    let groups = items.chunks(GROUP).map(|group| tuple(group.to_vec()));
    tuple(groups.collect())
}

#[cfg(test)]
mod tests;
