//! What a contract becomes.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};
use syn::{Ident, Type, Visibility, parse_quote};

use super::{Contract, Method, Safety, snake};
use crate::shape::as_static;

impl Contract {
    pub(super) fn write(&self) -> TokenStream {
        let parts = [
            self.marker(),
            self.method_types(),
            self.stream_types(),
            self.client(),
            self.async_client(),
            self.server(),
        ];
        quote!(#(#parts)*)
    }

    pub(super) fn module(&self) -> Ident {
        snake(&self.ident)
    }

    /// How visible the types in the module are: as the contract, seen from inside.
    pub(super) fn inner_visibility(&self) -> Visibility {
        match &self.visibility {
            Visibility::Inherited => parse_quote!(pub(super)),
            Visibility::Restricted(to) if to.path.is_ident("super") => {
                parse_quote!(pub(in super::super))
            }
            other => other.clone(),
        }
    }

    pub(super) fn title(&self) -> String {
        format!("`{}@{}`", self.name, self.major)
    }

    /// The type that stands for the contract.
    fn marker(&self) -> TokenStream {
        let Self {
            krate,
            visibility,
            docs,
            ident,
            name,
            major,
            error,
            in_flight,
            ..
        } = self;
        let contract = quote!(#krate::contract);
        let schema = quote!(#krate::protocol::schema);
        let requests: Vec<Type> = self.methods.iter().map(Method::static_request).collect();
        let responses: Vec<Type> = self
            .methods
            .iter()
            .map(|method| as_static(&method.response))
            .collect();
        let streams = self.stream_schemas();
        // What a method sends: of items, each with the words around it.
        let lengths = |of: &[Type], around: TokenStream| -> Vec<TokenStream> {
            self.methods
                .iter()
                .zip(of)
                .map(|(method, of)| {
                    let length = quote!(<#of as #contract::Message>::ENCODED_MAX);
                    match method.streaming {
                        true => quote!(#krate::items::#around(#length)),
                        false => length,
                    }
                })
                .collect()
        };
        let request_lengths = lengths(&requests, quote!(request_max));
        let response_lengths = lengths(&responses, quote!(response_max));
        let needs_journal = self
            .methods
            .iter()
            .any(|method| method.safety == Safety::Once);
        let methods = self
            .methods
            .iter()
            .zip(requests.iter().zip(&responses))
            .map(|(method, (request, response))| {
                let (id, name) = (method.id, method.name());
                let safety = method.safety.ident();
                let response = quote!(<#response as #contract::Message>::schema());
                let response = if method.streaming {
                    quote!(#schema::TypeSchema::Items(::std::boxed::Box::new(#response)))
                } else {
                    response
                };
                quote! {
                    #schema::MethodSchema {
                        id: #id,
                        name: #name.into(),
                        safety: #schema::SafetySchema::#safety,
                        request: <#request as #contract::Message>::schema(),
                        response: #response,
                    }
                }
            });
        quote! {
            #(#docs)*
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            #visibility enum #ident {}

            impl #contract::Contract for #ident {
                const NAME: &'static str = #name;
                const MAJOR: u16 = #major;
                const IN_FLIGHT: usize = #in_flight as usize;
                const REQUEST_MAX: usize = #krate::protocol::encoding::greatest(&[
                    #(#request_lengths),*
                ]);
                const RESPONSE_MAX: usize = #krate::protocol::encoding::greatest(&[
                    <#error as #contract::Message>::ENCODED_MAX,
                    #(#response_lengths),*
                ]);
                const NEEDS_JOURNAL: bool = #needs_journal;
                type Error = #error;

                fn schema() -> #schema::Schema {
                    #schema::Schema {
                        name: #name.into(),
                        major: #major,
                        in_flight: #in_flight,
                        error: <#error as #contract::Message>::schema(),
                        methods: ::std::vec![#(#methods),*],
                        streams: ::std::vec![#streams],
                    }
                }
            }
        }
    }

    fn method_types(&self) -> TokenStream {
        let Self {
            krate,
            visibility,
            ident,
            ..
        } = self;
        let contract = quote!(#krate::contract);
        let module = self.module();
        let module_doc = format!("The methods and streams of {}.", self.title());
        let streams = self.stream_markers();
        let inner = self.inner_visibility();
        let markers = self.methods.iter().map(|method| {
            let (docs, marker) = (&method.docs, &method.marker);
            quote! {
                #(#docs)*
                #[derive(Debug, Clone, Copy, PartialEq, Eq)]
                #inner enum #marker {}
            }
        });
        let impls = self.methods.iter().map(|method| {
            let (marker, id, name) = (&method.marker, method.id, method.name());
            let (request, response) = (method.static_request(), as_static(&method.response));
            let safety = method.safety.ident();
            let seconds = method.deadline.as_secs();
            let nanos = method.deadline.subsec_nanos();
            let is_streaming = method.streaming;
            let streaming = method
                .streaming
                .then(|| quote!(impl #krate::items::Streaming for #module::#marker {}));
            let key = method.key.as_ref().map(|key| {
                quote! {
                    fn key(
                        __request: &<#request as #contract::Message>::View<'_>,
                    ) -> ::std::option::Option<u64> {
                        ::std::option::Option::Some(#contract::key_of(&__request.#key))
                    }
                }
            });
            quote! {
                #streaming
                impl #contract::Method for #module::#marker {
                    type Contract = #ident;
                    type Request = #request;
                    type Response = #response;
                    const ID: u16 = #id;
                    const NAME: &'static str = #name;
                    const SAFETY: #contract::Safety = #contract::Safety::#safety;
                    const DEADLINE: ::std::time::Duration =
                        ::std::time::Duration::new(#seconds, #nanos);
                    const STREAMING: bool = #is_streaming;
                    #key
                }
            }
        });
        quote! {
            #[doc = #module_doc]
            #visibility mod #module {
                #(#markers)*
                #streams
            }
            #(#impls)*
        }
    }

    fn client(&self) -> TokenStream {
        let Self {
            krate,
            visibility,
            ident,
            error,
            ..
        } = self;
        let name = format_ident!("{}Client", self.ident);
        let doc = format!("Calls {} over one connection.", self.title());
        let new_doc = format!(
            "A client on `connection`, which is to be one of {}.",
            self.title()
        );
        let client = quote!(#krate::client);
        let module = self.module();
        let methods = self.methods.iter().map(|method| {
            let (docs, ident, marker) = (&method.docs, &method.ident, &method.marker);
            let with = format_ident!("{}_with", ident.to_string().trim_start_matches("r#"));
            let submit = format_ident!("submit_{}", ident.to_string().trim_start_matches("r#"));
            let with_doc = format!("[`{0}`](Self::{0}), with options.", method.name());
            let submit_doc =
                format!("Sends the request of [`{0}`](Self::{0}) without waiting.", method.name());
            let error_doc = "# Errors\n\nThe contract's own as `CallError::Failed`; the others say \
                             of themselves whether the request may have been executed.";
            let (parameter, argument) = match &method.request {
                Some(request) => (quote!(request: &#request,), quote!(request)),
                None => (quote!(), quote!(&())),
            };
            let method_type = quote!(#module::#marker);
            let result = |of: TokenStream| {
                quote!(::std::result::Result<#client::#of<#method_type>, #client::CallError<#error>>)
            };
            if method.streaming {
                let items = result(quote!(Items));
                let items_doc = "The items come as they are read; the deadline is that of all of \
                                 them.";
                return quote! {
                    #(#docs)*
                    ///
                    #[doc = #items_doc]
                    ///
                    #[doc = #error_doc]
                    pub fn #ident(&self, #parameter) -> #items {
                        let options = ::std::default::Default::default();
                        self.connection.items::<#method_type>(#argument, options)
                    }

                    #[doc = #with_doc]
                    ///
                    #[doc = #error_doc]
                    pub fn #with(&self, #parameter options: #client::CallOptions) -> #items {
                        self.connection.items::<#method_type>(#argument, options)
                    }
                };
            }
            let (response, ticket) = (result(quote!(Response)), result(quote!(Ticket)));
            quote! {
                #(#docs)*
                ///
                #[doc = #error_doc]
                #[inline]
                pub fn #ident(&self, #parameter) -> #response {
                    let options = ::std::default::Default::default();
                    self.connection.call::<#method_type>(#argument, options)
                }

                #[doc = #with_doc]
                ///
                #[doc = #error_doc]
                #[inline]
                pub fn #with(&self, #parameter options: #client::CallOptions) -> #response {
                    self.connection.call::<#method_type>(#argument, options)
                }

                #[doc = #submit_doc]
                ///
                #[doc = #error_doc]
                #[inline]
                pub fn #submit(&self, #parameter options: #client::CallOptions) -> #ticket {
                    self.connection.submit::<#method_type>(#argument, options)
                }
            }
        });
        quote! {
            #[doc = #doc]
            #[derive(Debug, Clone)]
            #visibility struct #name {
                connection: #client::Connection,
            }

            impl #name {
                #[doc = #new_doc]
                pub fn new(connection: #client::Connection) -> Self {
                    Self { connection }
                }

                /// A client on a new connection of `edge`, for the calling thread.
                pub fn connect(
                    edge: &#client::Edge,
                ) -> ::std::result::Result<Self, #client::ConnectError> {
                    edge.connect::<#ident>().map(Self::new)
                }

                /// The connection.
                pub fn connection(&self) -> &#client::Connection {
                    &self.connection
                }

                #(#methods)*
            }
        }
    }

    fn server(&self) -> TokenStream {
        let Self {
            krate,
            visibility,
            ident,
            ..
        } = self;
        let (name, dispatch) = (
            format_ident!("{ident}Server"),
            format_ident!("{ident}Dispatch"),
        );
        let doc = format!("Executes the requests of {}.", self.title());
        let dispatch_doc = format!("Lets a [`{name}`] be served.");
        let server = quote!(#krate::server);
        let module = self.module();
        let methods = self.methods.iter().map(|method| {
            let (docs, ident, marker) = (&method.docs, &method.ident, &method.marker);
            let parameter = method
                .request
                .iter()
                .map(|request| quote!(request: #request,));
            let reply = match method.streaming {
                true => quote!(ReplyItems),
                false => quote!(Reply),
            };
            quote! {
                #(#docs)*
                fn #ident(
                    &mut self,
                    call: &#server::CallContext,
                    #(#parameter)*
                    reply: #server::#reply<'_, #module::#marker>,
                ) -> #server::Answer;
            }
        });
        let arms = self.methods.iter().map(|method| {
            let (method_ident, id) = (&method.ident, method.id);
            let request = method.static_request();
            let argument = method.request.iter().map(|_| quote!(__request,));
            if method.streaming {
                let marker = &method.marker;
                return quote! {
                    #id => __reply.items::<#module::#marker>(
                        __call,
                        __body,
                        |__request, __reply| {
                            #name::#method_ident(&mut self.0, __call, #(#argument)* __reply)
                        },
                    ),
                };
            }
            quote! {
                #id => match <#request as #krate::contract::Message>::decode(__body) {
                    ::std::option::Option::Some(__request) => {
                        #name::#method_ident(
                            &mut self.0,
                            __call,
                            #(#argument)*
                            #server::Reply::new(__reply),
                        )
                    }
                    ::std::option::Option::None => __reply.bad_request(),
                }
            }
        });
        let (publishers, outlets) = if self.streams.is_empty() {
            (quote!(), quote!())
        } else {
            let streams = self.streams_ident();
            let publishers = quote! {
                /// The publishers, the same ones at every call.
                fn streams(&self) -> &#streams;
            };
            let outlets = quote! {
                fn outlets(&self) -> ::std::option::Option<&#krate::stream::Outlets> {
                    ::std::option::Option::Some(#name::streams(&self.0).outlets())
                }
            };
            (publishers, outlets)
        };
        quote! {
            #[doc = #doc]
            #visibility trait #name {
                #publishers
                #(#methods)*
            }

            #[doc = #dispatch_doc]
            #[derive(Debug, Clone, Default)]
            #visibility struct #dispatch<T>(
                /// What executes the requests.
                pub T,
            );

            impl<T: #name> #server::Dispatch for #dispatch<T> {
                type Contract = #ident;

                #outlets

                #[inline]
                fn dispatch(
                    &mut self,
                    __call: &#server::CallContext,
                    __method: u16,
                    __body: &[u8],
                    __reply: #server::ReplySlot<'_>,
                ) -> #server::Answer {
                    match __method {
                        #(#arms)*
                        _ => __reply.unknown_method(),
                    }
                }
            }
        }
    }
}
