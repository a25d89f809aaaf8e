//! `form@1` as three releases have it: one, one that fits its users, one that does not.

use std::process::ExitCode;
use std::time::Duration;

use insula::ipc::client::CallOptions;
use insula::ipc::server::{Answer, CallContext, Reply};
use insula::{NoStore, Service};

use crate::calls;

macro_rules! form {
    ($module:ident, $max:literal $(, $more:item)?) => {
        /// One form of the contract.
        pub(crate) mod $module {
            use insula::{Message, contract};

            /// Measures texts.
            #[contract(name = "form", major = 1, error = Never, in_flight = 4)]
            pub(crate) trait Form {
                /// The length of a text.
                #[method(id = 1, idempotent, deadline = "2s")]
                fn measure(request: Text<'_>) -> Length;
                $(
                    /// Another method.
                    #[method(id = 2, idempotent, deadline = "2s")]
                    $more
                )?
            }

            /// A text.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
            pub(crate) struct Text<'a> {
                /// The text.
                #[message(max = $max)]
                pub(crate) text: insula::Text<'a>,
            }

            /// A length.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
            pub(crate) struct Length {
                /// In bytes.
                pub(crate) bytes: u64,
            }

            /// Nothing goes wrong.
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
            pub(crate) enum Never {
                /// Not even this.
                Nothing,
            }
        }
    };
}

form!(first, 100);
form!(wider, 200, fn again(request: Text<'_>) -> Length;);
form!(narrower, 50);

#[derive(Debug, Clone, Copy)]
struct Measure;

macro_rules! measure {
    ($module:ident $(, $more:ident)?) => {
        impl $module::FormServer for Measure {
            fn measure(
                &mut self,
                _: &CallContext,
                request: $module::Text<'_>,
                reply: Reply<'_, $module::form::Measure>,
            ) -> Answer {
                let bytes = request.text.len() as u64;
                reply.send(&$module::Length { bytes })
            }
            $(
                fn $more(
                    &mut self,
                    _: &CallContext,
                    request: $module::Text<'_>,
                    reply: Reply<'_, $module::form::Again>,
                ) -> Answer {
                    let bytes = request.text.len() as u64;
                    reply.send(&$module::Length { bytes })
                }
            )?
        }
    };
}

measure!(first);
measure!(wider, again);
measure!(narrower);

pub(crate) fn serve(form: u8) -> ExitCode {
    let service = Service::new();
    match form {
        1 => service.serve(|_| Ok((first::FormDispatch(Measure), NoStore))),
        2 => service.serve(|_| Ok((wider::FormDispatch(Measure), NoStore))),
        _ => service.serve(|_| Ok((narrower::FormDispatch(Measure), NoStore))),
    }
}

macro_rules! consume {
    ($module:ident, $form:ty, $options:expr) => {
        Service::new().requires::<$form>().run(|context| {
            let runtime = context.runtime();
            let edge = runtime.edge::<$form>(Duration::from_secs(10))?;
            std::thread::spawn(move || match $module::FormClient::connect(&edge) {
                Ok(client) => calls::repeat(|| {
                    let text = insula::Text::new(
                        "a text of some length that is more than fifty bytes long",
                    );
                    let answer = client.measure_with(&$module::Text { text }, $options);
                    answer.map(drop).map_err(|error| error.to_string())
                }),
                Err(error) => println!("error: {error}"),
            });
            runtime.ready();
            runtime.wait_for_stop();
            Ok(())
        })
    };
}

pub(crate) fn consume(form: u8, deadline: Option<Duration>) -> ExitCode {
    let options = CallOptions {
        deadline,
        ..CallOptions::default()
    };
    match form {
        1 => consume!(first, first::Form, options),
        2 => consume!(wider, wider::Form, options),
        _ => consume!(narrower, narrower::Form, options),
    }
}
