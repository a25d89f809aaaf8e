//! The client of a contract whose calls are futures.

use proc_macro2::TokenStream;
use quote::{format_ident, quote};

use super::Contract;

impl Contract {
    pub(super) fn async_client(&self) -> TokenStream {
        let Self {
            krate,
            visibility,
            ident,
            ..
        } = self;
        let name = format_ident!("{ident}AsyncClient");
        let doc = format!(
            "Calls {} from tasks: clone it, or share it between them.",
            self.title()
        );
        let (client, aio) = (quote!(#krate::client), quote!(#krate::client::aio));
        let module = self.module();
        // Replies of items are read on a connection's own thread.
        let plain = self.methods.iter().filter(|method| !method.streaming);
        let methods = plain.map(|method| {
            let (docs, ident, marker) = (&method.docs, &method.ident, &method.marker);
            let with = format_ident!("{}_with", ident.to_string().trim_start_matches("r#"));
            let with_doc = format!("[`{0}`](Self::{0}), with options.", method.name());
            let (parameter, argument, pass) = match &method.request {
                Some(request) => (
                    quote!(request: &#request,),
                    quote!(request),
                    quote!(request,),
                ),
                None => (quote!(), quote!(&()), quote!()),
            };
            let method_type = quote!(#module::#marker);
            quote! {
                #(#docs)*
                pub fn #ident(&self, #parameter) -> #aio::AsyncCall<#method_type> {
                    self.#with(#pass ::std::default::Default::default())
                }

                #[doc = #with_doc]
                pub fn #with(
                    &self,
                    #parameter
                    options: #client::CallOptions,
                ) -> #aio::AsyncCall<#method_type> {
                    self.edge.call::<#method_type>(#argument, options)
                }
            }
        });
        quote! {
            #[doc = #doc]
            #[derive(Debug, Clone)]
            #[allow(dead_code, reason = "a program uses one sort of client")]
            #visibility struct #name {
                edge: #aio::AsyncEdge<#ident>,
            }

            #[allow(dead_code, reason = "a program uses one sort of client")]
            impl #name {
                /// A client on a connection of `edge`, for all tasks and threads.
                pub fn connect(
                    edge: &#client::Edge,
                ) -> ::std::result::Result<Self, #aio::AsyncConnectError> {
                    #aio::AsyncEdge::connect(edge).map(|edge| Self { edge })
                }

                /// The edge.
                pub fn edge(&self) -> &#aio::AsyncEdge<#ident> {
                    &self.edge
                }

                #(#methods)*
            }
        }
    }
}
