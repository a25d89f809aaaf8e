//! iceoryx2's own conformance tests against the service type of our channels.

extern crate alloc;

use std::process::ExitCode;

use insula_ipc::raw::FileService;

/// Instantiates suites, each a module of its own name.
macro_rules! suites {
    ($($suite:ident),+ $(,)?) => {
        $(iceoryx2_conformance_tests::$suite!(iceoryx2_conformance_tests::$suite, FileService);)+
    };
}

suites!(
    active_request,
    client,
    listener,
    node,
    node_death,
    notifier,
    pending_response,
    publisher,
    reader,
    sample,
    sample_mut,
    server,
    service_blackboard,
    service_event,
    service_publish_subscribe,
    service_publish_subscribe_flatbuffer,
    service_request_response,
    service_request_response_builder,
    service_request_response_flatbuffer,
    subscriber,
    waitset,
    writer,
);

/// The suite of what all patterns have in common, for each pattern.
macro_rules! patterns {
    ($($pattern:ident: $factory:ident),+ $(,)?) => {
        $(mod $pattern {
            use super::*;
            use iceoryx2_conformance_tests::service::service::$factory;

            iceoryx2_conformance_tests::service!(
                iceoryx2_conformance_tests::service,
                FileService,
                $factory<FileService>
            );
        })+
    };
}

patterns!(
    blackboard: BlackboardTests,
    event: EventTests,
    publish_subscribe: PubSubTests,
    request_response: RequestResponseTests,
);

mod unique_id {
    iceoryx2_conformance_tests::unique_id_generator_trait!(
        iceoryx2_conformance_tests::unique_id_generator_trait,
        iceoryx2::unique_id_generator::unique_system_id::UniqueSystemId
    );
}

/// All tests that iceoryx2 0.10.0 has, those of `service` counted for each pattern. None of them is
/// left out, and none may fail: nothing that they ask is out of reach for storage in files.
const NUMBER: usize = 784;

fn main() -> ExitCode {
    insula_conformance::run(NUMBER)
}
