//! What a field's type is made of, and the code that encodes it.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::visit_mut::{self, VisitMut};
use syn::{Attribute, Error, Expr, GenericArgument, Lifetime, Path, PathArguments, Result, Type};

/// A type, taken apart as far as capacities are declared.
pub(crate) enum Shape {
    /// A scalar or another message.
    Message(Type),
    Text(Expr),
    Bytes(Expr),
    Items(Expr, Box<Shape>),
    Maybe(Box<Shape>),
    Array(Expr, Box<Shape>),
}

/// The declared capacities that no part of the type has used yet, the outermost next.
struct Capacities {
    rest: std::vec::IntoIter<Expr>,
    declared: bool,
}

impl Capacities {
    fn take(&mut self, of: &Type, unit: &str) -> Result<Expr> {
        self.rest.next().ok_or_else(|| {
            let what = if self.declared {
                format!(
                    "one greatest length is missing: give one for each level, the outer first: \
                     `#[message(max = [N, M])]` (here in {unit})"
                )
            } else {
                format!("needs its greatest length in {unit}: `#[message(max = N)]`")
            };
            Error::new(of.span(), what)
        })
    }
}

impl Shape {
    /// Reads a field's type and its `#[message(max = ...)]`.
    pub(crate) fn of(ty: &Type, attributes: &[Attribute]) -> Result<Self> {
        let declared = capacities(attributes)?;
        let mut capacities = Capacities {
            declared: !declared.is_empty(),
            rest: declared.into_iter(),
        };
        let shape = Self::read(ty, &mut capacities)?;
        match capacities.rest.next() {
            None => Ok(shape),
            Some(surplus) => Err(Error::new(
                surplus.span(),
                "only texts, byte strings and sequences have a greatest length, one each",
            )),
        }
    }

    fn read(ty: &Type, capacities: &mut Capacities) -> Result<Self> {
        match ty {
            Type::Paren(inner) => Self::read(&inner.elem, capacities),
            Type::Group(inner) => Self::read(&inner.elem, capacities),
            Type::Array(array) => Ok(Self::Array(
                array.len.clone(),
                Box::new(Self::read(&array.elem, capacities)?),
            )),
            Type::Reference(reference) if reference.mutability.is_none() => {
                match &*reference.elem {
                    Type::Path(path) if path.path.is_ident("str") => Err(Error::new(
                        ty.span(),
                        "a `&str` in shared memory could be changed by its writer: use `Text<'a>`, \
                         which is read in place, or `String`, which is a copy",
                    )),
                    Type::Slice(slice) if is_u8(&slice.elem) => {
                        Ok(Self::Bytes(capacities.take(ty, "bytes")?))
                    }
                    _ => Err(Error::new(
                        ty.span(),
                        "only `&[u8]` and `Text` are read in place; use `Vec` for other sequences, \
                         and messages by value",
                    )),
                }
            }
            Type::Path(path) if path.qself.is_none() => {
                let Some(last) = path.path.segments.last() else {
                    return Ok(Self::Message(ty.clone()));
                };
                let item = match &last.arguments {
                    PathArguments::AngleBracketed(arguments) => match arguments.args.first() {
                        Some(GenericArgument::Type(item)) if arguments.args.len() == 1 => {
                            Some(item)
                        }
                        _ => None,
                    },
                    PathArguments::None | PathArguments::Parenthesized(_) => None,
                };
                if last.ident == "Text" && is_of_a_lifetime(&last.arguments) {
                    return Ok(Self::Text(capacities.take(ty, "bytes")?));
                }
                match (last.ident.to_string().as_str(), item) {
                    ("String", None) => Ok(Self::Text(capacities.take(ty, "bytes")?)),
                    ("Vec", Some(item)) if is_u8(item) => {
                        Ok(Self::Bytes(capacities.take(ty, "bytes")?))
                    }
                    ("Vec", Some(item)) => {
                        let max = capacities.take(ty, "items")?;
                        Ok(Self::Items(max, Box::new(Self::read(item, capacities)?)))
                    }
                    ("Option", Some(item)) => {
                        Ok(Self::Maybe(Box::new(Self::read(item, capacities)?)))
                    }
                    ("usize" | "isize" | "u128" | "i128" | "char", None) => Err(Error::new(
                        ty.span(),
                        "not a type of messages: numbers are `u8` to `u64`, `i8` to `i64`, `f32` \
                         and `f64`",
                    )),
                    _ => Ok(Self::Message(ty.clone())),
                }
            }
            Type::Tuple(tuple) if tuple.elems.is_empty() => Ok(Self::Message(ty.clone())),
            _ => Err(Error::new(
                ty.span(),
                "not a type of messages; a struct that derives `Message` gives its parts names",
            )),
        }
    }

    /// The type that encodes and decodes it.
    pub(crate) fn codec(&self, krate: &Path) -> TokenStream {
        let encoding = quote!(#krate::protocol::encoding);
        match self {
            Self::Message(_) => quote!(#encoding::Plain),
            Self::Text(max) => quote!(#encoding::Text<{ #max }>),
            Self::Bytes(max) => quote!(#encoding::Bytes<{ #max }>),
            Self::Items(max, item) => {
                let item = item.codec(krate);
                quote!(#encoding::Items<{ #max }, #item>)
            }
            Self::Maybe(item) => {
                let item = item.codec(krate);
                quote!(#encoding::Maybe<#item>)
            }
            Self::Array(_, item) => {
                let item = item.codec(krate);
                quote!(#encoding::Array<#item>)
            }
        }
    }

    /// A constant expression: the most bytes that a value takes.
    pub(crate) fn encoded_max(&self, krate: &Path) -> TokenStream {
        let varint_length = quote!(#krate::protocol::encoding::varint_length);
        match self {
            Self::Message(ty) => {
                let message = as_static(ty);
                quote_spanned!(ty.span()=> <#message as #krate::contract::Message>::PART_MAX)
            }
            Self::Text(max) | Self::Bytes(max) => quote!((#varint_length(#max) + (#max))),
            Self::Items(max, item) => {
                let item = item.encoded_max(krate);
                quote!((#varint_length(#max) + (#max) * #item))
            }
            Self::Maybe(item) => {
                let item = item.encoded_max(krate);
                quote!((1 + #item))
            }
            Self::Array(length, item) => {
                let item = item.encoded_max(krate);
                quote!(((#length) * #item))
            }
        }
    }

    /// An expression: its schema.
    pub(crate) fn schema(&self, krate: &Path) -> TokenStream {
        let schema = quote!(#krate::protocol::schema::TypeSchema);
        let boxed = |item: &Self| {
            let item = item.schema(krate);
            quote!(::std::boxed::Box::new(#item))
        };
        match self {
            Self::Message(ty) => {
                let message = as_static(ty);
                quote!(<#message as #krate::contract::Message>::schema())
            }
            Self::Text(max) => {
                let max = count(max);
                quote!(#schema::Text { max: #max })
            }
            Self::Bytes(max) => {
                let max = count(max);
                quote!(#schema::Bytes { max: #max })
            }
            Self::Items(max, item) => {
                let (max, item) = (count(max), boxed(item));
                quote!(#schema::Sequence { max: #max, item: #item })
            }
            Self::Maybe(item) => {
                let item = boxed(item);
                quote!(#schema::Option(#item))
            }
            Self::Array(length, item) => {
                let (length, item) = (count(length), boxed(item));
                quote!(#schema::Array { length: #length, item: #item })
            }
        }
    }
}

/// The constant expression `max`, which is of `usize`, as `u64`.
pub(crate) fn count(max: &Expr) -> TokenStream {
    quote!(const {
        let count: usize = #max;
        count as u64
    })
}

fn is_of_a_lifetime(arguments: &PathArguments) -> bool {
    let PathArguments::AngleBracketed(arguments) = arguments else {
        return false;
    };
    arguments.args.len() == 1 && matches!(arguments.args[0], GenericArgument::Lifetime(_))
}

fn is_u8(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.is_ident("u8"))
}

fn capacities(attributes: &[Attribute]) -> Result<Vec<Expr>> {
    let mut found: Option<Vec<Expr>> = None;
    for attribute in attributes.iter().filter(|a| a.path().is_ident("message")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("max") {
                return Err(meta.error("unknown option of a field; known: `max`"));
            }
            if found.is_some() {
                return Err(meta.error("`max` is given twice"));
            }
            found = Some(match meta.value()?.parse()? {
                Expr::Array(each) => each.elems.into_iter().collect(),
                one => vec![one],
            });
            Ok(())
        })?;
    }
    Ok(found.unwrap_or_default())
}

/// The type with all its lifetimes `'static`.
pub(crate) fn as_static(ty: &Type) -> Type {
    struct Static;
    impl VisitMut for Static {
        fn visit_lifetime_mut(&mut self, lifetime: &mut Lifetime) {
            *lifetime = Lifetime::new("'static", lifetime.span());
        }
        fn visit_type_reference_mut(&mut self, reference: &mut syn::TypeReference) {
            reference.lifetime = Some(Lifetime::new("'static", reference.and_token.span()));
            visit_mut::visit_type_reference_mut(self, reference);
        }
    }
    let mut ty = ty.clone();
    Static.visit_type_mut(&mut ty);
    ty
}
