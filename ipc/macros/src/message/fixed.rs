//! `#[message(fixed)]`: a struct that travels as it lies in memory.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Data, DeriveInput, Error, Fields, Member, Path, Result};

use super::member_name;

pub(super) fn expand(input: &DeriveInput, krate: &Path) -> Result<TokenStream> {
    let name = &input.ident;
    let Data::Struct(data) = &input.data else {
        let text = "only a struct has a fixed layout: not all bytes are a variant";
        return Err(Error::new_spanned(name, text));
    };
    if !input.generics.params.is_empty() {
        let text = "a message of a fixed layout borrows nothing and has no parameters";
        return Err(Error::new_spanned(&input.generics, text));
    }
    if !is_repr_c(input)? {
        let text = "a fixed layout needs `#[repr(C)]`";
        return Err(Error::new_spanned(name, text));
    }
    for field in &data.fields {
        if let Some(surplus) = field.attrs.iter().find(|a| a.path().is_ident("message")) {
            let text = "a field of a fixed layout has no options";
            return Err(Error::new_spanned(surplus, text));
        }
    }
    let payload = quote!(#krate::payload);
    let schema = quote!(#krate::protocol::schema);
    let serde = quote!(#krate::protocol::encoding::serde);
    let types: Vec<_> = data.fields.iter().map(|field| &field.ty).collect();
    let checks = types.iter().map(|ty| {
        quote_spanned!(ty.span()=> {
            const fn is_fixed<T: #payload::Fixed>() {}
            is_fixed::<#ty>();
        })
    });
    let parts = data.fields.iter().zip(data.fields.members());
    let fields = parts.map(|(field, member)| {
        let (ty, name) = (&field.ty, member_name(&member));
        quote! {
            #schema::FieldSchema {
                name: #name.into(),
                schema: <#ty as #payload::Fixed>::structure(),
            }
        }
    });
    let padding = format!(
        "`{name}` has padding, which has no value: order its fields by size, or fill the gaps"
    );
    let views = views(input, &data.fields, krate);
    Ok(quote! {
        const _: () = {
            #(#checks)*
            assert!(
                ::std::mem::size_of::<#name>() == 0 #(+ ::std::mem::size_of::<#types>())*,
                #padding,
            );
            assert!(::std::mem::align_of::<#name>() <= 64, "chunks are aligned to 64 bytes");
        };

        #[automatically_derived]
        #[allow(unsafe_code, reason = "checked beside it: `repr(C)`, all fields fixed, no padding")]
        // SAFETY: a `repr(C)` struct of fixed fields without padding, as the constant above checks.
        unsafe impl #payload::Fixed for #name {
            fn structure() -> #schema::TypeSchema {
                #schema::TypeSchema::Struct(::std::vec![#(#fields),*])
            }
        }

        #[automatically_derived]
        impl #krate::contract::Message for #name {
            type View<'__view> = #name;
            const ENCODED_MAX: usize = ::std::mem::size_of::<#name>();
            fn schema() -> #schema::TypeSchema {
                #schema::TypeSchema::Fixed(::std::boxed::Box::new(
                    <#name as #payload::Fixed>::structure(),
                ))
            }
            #[inline]
            fn encode(
                __value: &#name,
                __place: &mut [u8],
            ) -> ::std::option::Option<usize> {
                #payload::encode_fixed(__value, __place)
            }
            #[inline]
            fn decode(__bytes: &[u8]) -> ::std::option::Option<#name> {
                #payload::decode_fixed(__bytes)
            }
        }

        #[automatically_derived]
        impl #serde::Serialize for #name {
            fn serialize<__S: #serde::Serializer>(
                &self,
                __serializer: __S,
            ) -> ::std::result::Result<__S::Ok, __S::Error> {
                #payload::serialize_fixed(self, __serializer)
            }
        }

        #[automatically_derived]
        impl<'__de> #serde::Deserialize<'__de> for #name {
            fn deserialize<__D: #serde::Deserializer<'__de>>(
                __deserializer: __D,
            ) -> ::std::result::Result<Self, __D::Error> {
                #payload::deserialize_fixed(__deserializer)
            }
        }

        #views
    })
}

/// The trait by which the fields of a value in place are reached.
fn views(input: &DeriveInput, fields: &Fields, krate: &Path) -> TokenStream {
    let (name, visibility) = (&input.ident, &input.vis);
    let trait_name = format_ident!("{name}InPlace");
    let doc = format!("The fields of a [`{name}`] where they lie.");
    let in_place = quote!(#krate::payload::InPlace);
    let named = fields.iter().zip(fields.members());
    let (declared, defined): (Vec<_>, Vec<_>) = named
        .filter_map(|(field, member)| match &member {
            Member::Named(member) => {
                let ty = &field.ty;
                let doc = format!(
                    "Its field `{}`.",
                    member_name(&Member::Named(member.clone()))
                );
                let signature = quote!(fn #member(&self) -> #in_place<'__place, #ty>);
                Some((
                    quote!(#[doc = #doc] #signature;),
                    quote! {
                        #[inline]
                        #signature {
                            #in_place::part(self, ::std::mem::offset_of!(#name, #member))
                        }
                    },
                ))
            }
            Member::Unnamed(_) => None,
        })
        .unzip();
    if declared.is_empty() {
        return TokenStream::new();
    }
    quote! {
        #[doc = #doc]
        #[allow(dead_code, reason = "not every field need be read in place")]
        #visibility trait #trait_name<'__place> {
            #(#declared)*
        }

        #[automatically_derived]
        impl<'__place> #trait_name<'__place> for #in_place<'__place, #name> {
            #(#defined)*
        }
    }
}

fn is_repr_c(input: &DeriveInput) -> Result<bool> {
    let mut found = false;
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("repr")) {
        attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("C") {
                found = true;
            } else if meta.path.is_ident("packed") {
                return Err(meta.error("a packed struct does not lie as its fields ask for"));
            } else if meta.path.is_ident("align") {
                // Its number is of no interest here.
                let _: proc_macro2::TokenTree = meta.input.parse()?;
            }
            Ok(())
        })?;
    }
    Ok(found)
}
