//! The iceoryx2 service type of the channels: everything in files below the channel's directory.
//!
//! Public for benches only, which run a bare iceoryx2 ping-pong beside ours in the same setup.
//! Made of iceoryx2 0.10.0's own parts; with the stock service type, segments lie in `/dev/shm`,
//! where directories give no protection.

use std::fmt::Debug;

use iceoryx2::config::Config;
use iceoryx2::prelude::{LogLevel, Path, SemanticString, ZeroCopySend, set_log_level};
use iceoryx2_bb_elementary_traits::testing::abandonable::Abandonable;
use iceoryx2_bb_lock_free::mpmc::counting_bit_set::RelocatableCountingBitSet;
use iceoryx2_cal::dynamic_storage::file::Storage;
use iceoryx2_cal::event::trigger::State;
use iceoryx2_cal::event::trigger::unix_datagram_socket::GenericUnixDatagramSocketTrigger;
use iceoryx2_cal::shared_memory::file::Memory;
use iceoryx2_cal::shm_allocator::{bump_allocator, pool_allocator};

/// A cache line of payload; requests and responses are slices of it.
#[derive(Clone, Copy, ZeroCopySend)]
#[type_name("insula.Line")]
#[repr(C)]
#[repr(align(64))]
pub struct Line(pub [u8; 64]);

impl Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

/// iceoryx2 with file-backed storage.
#[derive(Debug, Clone)]
pub struct FileService {}

impl iceoryx2::service::Service for FileService {
    type StaticStorage = iceoryx2_cal::static_storage::recommended::Ipc;
    type ConfigSerializer = iceoryx2_cal::serialize::recommended::Recommended;
    type PersistentDynamicStorage<T: Debug + Send + Sync + ZeroCopySend + 'static> = Storage<T>;
    type Bag = iceoryx2_cal::bag::recommended::Recommended;
    type DynamicStorage<T: Debug + Send + Sync + ZeroCopySend + 'static> = Storage<T>;
    type ServiceNameHasher = iceoryx2_cal::hash::recommended::Recommended;
    type SharedMemory = Memory<pool_allocator::PoolAllocator>;
    type ResizableSharedMemory = iceoryx2_cal::resizable_shared_memory::dynamic::DynamicMemory<
        pool_allocator::PoolAllocator,
        Memory<pool_allocator::PoolAllocator>,
    >;
    type Connection = iceoryx2_cal::zero_copy_connection::file::Connection;
    type Event = GenericUnixDatagramSocketTrigger<
        RelocatableCountingBitSet,
        Storage<State<RelocatableCountingBitSet, ()>>,
    >;
    type Monitoring = iceoryx2_cal::monitoring::recommended::Ipc;
    type Reactor = iceoryx2_cal::reactor::recommended::Ipc;
    type ArcThreadSafetyPolicy<T: Send + Debug + Abandonable> =
        iceoryx2_cal::arc_sync_policy::single_threaded::SingleThreaded<T>;
    type BlackboardMgmt<K: Send + Sync + Debug + ZeroCopySend + 'static> = Storage<K>;
    type BlackboardPayload = Memory<bump_allocator::BumpAllocator>;
    type UniqueId = iceoryx2::unique_id_generator::unique_system_id::UniqueSystemId;
}

impl iceoryx2::service::internal::ServiceInternal<FileService> for FileService {}

/// The configuration of a node in `directory`; `None` where iceoryx2 takes no such path.
///
/// Nobody cleans up after dead nodes: a channel is removed as a whole. What goes wrong is told by
/// return values, so iceoryx2's own log is silenced.
pub fn config(directory: &str) -> Option<Config> {
    set_log_level(LogLevel::Fatal);
    let mut config = Config::default();
    config
        .global
        .set_root_path(&Path::new(directory.as_bytes()).ok()?);
    config.global.node.cleanup_dead_nodes_on_creation = false;
    config.global.node.cleanup_dead_nodes_on_destruction = false;
    config.global.service.cleanup_dead_nodes_on_open = false;
    config
        .defaults
        .request_response
        .client_expired_connection_buffer = 4;
    config
        .defaults
        .request_response
        .server_expired_connection_buffer = 4;
    config
        .defaults
        .publish_subscribe
        .subscriber_expired_connection_buffer = 4;
    Some(config)
}
