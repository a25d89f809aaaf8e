//! The streams of a contract: what is read of them, and what they become.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::meta::ParseNestedMeta;
use syn::{Attribute, Error, Ident, LitInt, Result, ReturnType, TraitItemFn, Type};

use super::{Contract, camel, is_doc, number, plain_signature};
use crate::shape::as_static;

/// Unless the stream says otherwise.
const BUFFER: u32 = 16;
/// The most values that a stream may keep for a subscriber.
const BUFFER_MAX: u32 = 4096;

pub(super) struct Stream {
    docs: Vec<Attribute>,
    pub(super) ident: Ident,
    pub(super) marker: Ident,
    pub(super) id: u16,
    delivery: Delivery,
    item: Type,
}

#[derive(Clone, Copy)]
enum Delivery {
    Latest {
        history: bool,
    },
    Lossless {
        buffer: u32,
        history: u32,
        wait: bool,
    },
}

/// Whether the function is declared as a stream.
pub(super) fn is_stream(function: &TraitItemFn) -> bool {
    function.attrs.iter().any(|a| a.path().is_ident("stream"))
}

impl Stream {
    pub(super) fn name(&self) -> String {
        self.ident.to_string().trim_start_matches("r#").to_owned()
    }

    pub(super) fn read(function: &TraitItemFn) -> Result<Self> {
        const EXPECTED: &str = "expected `fn name() -> Item;`";
        plain_signature(function, "a stream", EXPECTED)?;
        let signature = &function.sig;
        if let Some(input) = signature.inputs.first() {
            return Err(Error::new_spanned(
                input,
                "a stream takes no request: everybody who subscribes gets the same values",
            ));
        }
        let item = match &signature.output {
            ReturnType::Default => return Err(Error::new_spanned(signature, EXPECTED)),
            ReturnType::Type(_, item) => (**item).clone(),
        };
        let mut options = None;
        for attribute in function.attrs.iter().filter(|a| !is_doc(a)) {
            if !attribute.path().is_ident("stream") {
                return Err(Error::new_spanned(
                    attribute,
                    "a stream has no attributes but `stream` and documentation",
                ));
            }
            if options.is_some() {
                return Err(Error::new_spanned(attribute, "`stream` is given twice"));
            }
            options = Some(read_options(attribute)?);
        }
        let (id, delivery) = options.expect("told by this attribute");
        let ident = signature.ident.clone();
        Ok(Self {
            docs: function
                .attrs
                .iter()
                .filter(|a| is_doc(a))
                .cloned()
                .collect(),
            marker: camel(&ident),
            ident,
            id,
            delivery,
            item,
        })
    }
}

/// What is written in a `#[stream(...)]`.
#[derive(Default)]
struct Options {
    id: Option<u16>,
    latest: Option<bool>,
    buffer: Option<LitInt>,
    history: Option<LitInt>,
    slow: Option<Ident>,
}

impl Options {
    fn take(&mut self, meta: &ParseNestedMeta<'_>) -> Result<()> {
        match meta.path.require_ident()?.to_string().as_str() {
            "id" => {
                let expected = "a number from 1 to 65535";
                let literal: LitInt = meta.value()?.parse()?;
                self.id = match number(&literal, expected)? {
                    0 => return Err(Error::new(literal.span(), format!("expected {expected}"))),
                    id => Some(id),
                };
            }
            word @ ("latest" | "lossless") => {
                if self.latest.replace(word == "latest").is_some() {
                    return Err(meta.error("a stream is `latest` or `lossless`, not both"));
                }
            }
            "buffer" => self.buffer = Some(meta.value()?.parse()?),
            "history" => self.history = Some(meta.value()?.parse()?),
            "slow" => self.slow = Some(meta.value()?.parse()?),
            _ => {
                return Err(meta.error(
                    "unknown option of a stream; known: `id`, `latest`, `lossless`, `buffer`, \
                     `history`, `slow`",
                ));
            }
        }
        Ok(())
    }
}

fn count(literal: Option<&LitInt>, least: u32, most: u32, unless: u32) -> Result<u32> {
    let Some(literal) = literal else {
        return Ok(unless);
    };
    let expected = format!("a number from {least} to {most}");
    let count: u32 = number(literal, &expected)?;
    if (least..=most).contains(&count) {
        Ok(count)
    } else {
        Err(Error::new(literal.span(), format!("expected {expected}")))
    }
}

fn read_options(attribute: &Attribute) -> Result<(u16, Delivery)> {
    let mut options = Options::default();
    attribute.parse_nested_meta(|meta| options.take(&meta))?;
    let missing = |option: &str| Error::new_spanned(attribute, format!("a stream needs {option}"));
    let id = options.id.ok_or_else(|| missing("its `id = ...`"))?;
    let latest = options
        .latest
        .ok_or_else(|| missing("to be `latest` or `lossless`"))?;
    if latest {
        if let Some(buffer) = &options.buffer {
            let text = "a `latest` stream has no buffer: the newest value replaces the others";
            return Err(Error::new(buffer.span(), text));
        }
        if let Some(slow) = &options.slow {
            let text = "a subscriber of a `latest` stream is never too slow";
            return Err(Error::new(slow.span(), text));
        }
        let history = count(options.history.as_ref(), 0, 1, 1)? == 1;
        return Ok((id, Delivery::Latest { history }));
    }
    let buffer = count(options.buffer.as_ref(), 1, BUFFER_MAX, BUFFER)?;
    let history = count(options.history.as_ref(), 0, BUFFER_MAX, 0)?;
    if let Some(literal) = options.history.as_ref().filter(|_| history > buffer) {
        let text = format!("the history has to fit into the buffer, which is {buffer}");
        return Err(Error::new(literal.span(), text));
    }
    let wait = match &options.slow {
        None => true,
        Some(word) if word == "wait" => true,
        Some(word) if word == "disconnect" => false,
        Some(word) => {
            return Err(Error::new(word.span(), "expected `wait` or `disconnect`"));
        }
    };
    Ok((
        id,
        Delivery::Lossless {
            buffer,
            history,
            wait,
        },
    ))
}

impl Contract {
    pub(super) fn streams_ident(&self) -> Ident {
        format_ident!("{}Streams", self.ident)
    }

    /// The schemas of the streams, separated by commas.
    pub(super) fn stream_schemas(&self) -> TokenStream {
        let krate = &self.krate;
        let schema = quote!(#krate::protocol::schema);
        let each = self.streams.iter().map(|stream| {
            let (id, name, item) = (stream.id, stream.name(), as_static(&stream.item));
            let delivery = match stream.delivery {
                Delivery::Latest { history } => quote!(Latest { history: #history }),
                Delivery::Lossless {
                    buffer,
                    history,
                    wait,
                } => {
                    let slow = if wait {
                        quote!(Wait)
                    } else {
                        quote!(Disconnect)
                    };
                    quote!(Lossless {
                        buffer: #buffer,
                        history: #history,
                        slow: #schema::SlowSchema::#slow,
                    })
                }
            };
            quote! {
                #schema::StreamSchema {
                    id: #id,
                    name: #name.into(),
                    delivery: #schema::DeliverySchema::#delivery,
                    item: <#item as #krate::contract::Message>::schema(),
                }
            }
        });
        quote!(#(#each),*)
    }

    /// A type per stream, for the contract's module.
    pub(super) fn stream_markers(&self) -> TokenStream {
        let inner = self.inner_visibility();
        let each = self.streams.iter().map(|stream| {
            let (docs, marker) = (&stream.docs, &stream.marker);
            quote! {
                #(#docs)*
                #[derive(Debug, Clone, Copy, PartialEq, Eq)]
                #inner enum #marker {}
            }
        });
        quote!(#(#each)*)
    }

    /// What the streams' types implement, and the provider's publishers.
    pub(super) fn stream_types(&self) -> TokenStream {
        if self.streams.is_empty() {
            return TokenStream::new();
        }
        let Self {
            krate,
            visibility,
            ident,
            ..
        } = self;
        let (module, name) = (self.module(), self.streams_ident());
        let stream_path = quote!(#krate::stream);
        let impls = self.streams.iter().map(|stream| {
            let (marker, id, name) = (&stream.marker, stream.id, stream.name());
            let item = as_static(&stream.item);
            let delivery = match stream.delivery {
                Delivery::Latest { history } => quote!(Latest { history: #history }),
                Delivery::Lossless {
                    buffer,
                    history,
                    wait,
                } => {
                    let slow = if wait {
                        quote!(Wait)
                    } else {
                        quote!(Disconnect)
                    };
                    quote!(Lossless {
                        buffer: #buffer as usize,
                        history: #history as usize,
                        slow: #stream_path::Slow::#slow,
                    })
                }
            };
            quote! {
                impl #stream_path::Stream for #module::#marker {
                    type Contract = #ident;
                    type Item = #item;
                    const ID: u16 = #id;
                    const NAME: &'static str = #name;
                    const DELIVERY: #stream_path::Delivery = #stream_path::Delivery::#delivery;
                }
            }
        });
        let doc = format!("The publishers of {}'s streams.", self.title());
        let fields = self.streams.iter().map(|stream| {
            let (docs, ident, marker) = (&stream.docs, &stream.ident, &stream.marker);
            let doc = format!("Publishes `{}`.", stream.name());
            quote! {
                #[doc = #doc]
                ///
                #(#docs)*
                pub #ident: #stream_path::Publisher<#module::#marker>
            }
        });
        let idents: Vec<&Ident> = self.streams.iter().map(|stream| &stream.ident).collect();
        quote! {
            #(#impls)*

            #[doc = #doc]
            ///
            /// Belongs to one server, by `streams` of its service; clones are the same publishers.
            #[derive(Debug, Clone)]
            #visibility struct #name {
                __outlets: #stream_path::Outlets,
                #(#fields),*
            }

            impl #name {
                /// Publishers that nobody has subscribed to yet.
                pub fn new() -> Self {
                    let __outlets = #stream_path::Outlets::new();
                    Self {
                        #(#idents: __outlets.publisher(),)*
                        __outlets,
                    }
                }

                /// All of them, for the server.
                pub fn outlets(&self) -> &#stream_path::Outlets {
                    &self.__outlets
                }
            }

            impl ::std::default::Default for #name {
                fn default() -> Self {
                    Self::new()
                }
            }
        }
    }
}
