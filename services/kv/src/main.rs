//! `kv`: an ordered store of byte strings, contract `kv@1`.

mod entries;
mod server;

use std::process::ExitCode;

use clap::Parser;
use insula::{Durability, Service, Store, StoreOptions};
use kv_contract::KvDispatch;

use server::Kv;

/// The version of the data's schema, as the manifest says too.
const SCHEMA: u32 = 1;

/// An ordered store of byte strings, contract kv@1; started by insulad.
#[derive(Debug, Parser)]
#[command(name = "kv", version)]
struct Args {
    /// When a write is on the disk: `strict`, `grouped`, or `periodic=50ms`.
    #[arg(long, default_value = "grouped")]
    durability: Durability,
    /// The most gibibytes that the store may take, if less than the manifest's `size-max`.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1024))]
    size_max: Option<u64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    Service::new().data_schema(SCHEMA).serve(|context| {
        let given = StoreOptions::default();
        let options = StoreOptions {
            durability: args.durability,
            size_max: args.size_max.map_or(given.size_max, |size| size << 30),
            schema: SCHEMA,
            ..given
        };
        let store = Store::open(&context.data().join("store"), &options)?;
        let kv = Kv::open(store.clone(), context.release())?;
        Ok((KvDispatch(kv), store))
    })
}
