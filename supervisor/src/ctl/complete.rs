//! Completion from the running daemon: names of contracts and methods.
//!
//! A completion is a question and nothing else: it connects to the local clients' socket, maps
//! nothing, and stays silent where nobody answers.

use std::ffi::OsStr;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use insula_contract::id::ContractId;
use insula_ipc::dynamic::TypeText;
use insula_ipc::local::LocalClient;

use crate::paths::Paths;

/// Completes a contract.
pub(super) fn contracts() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let known = client().and_then(|client| client.contracts().ok());
        let names = known.into_iter().flatten().map(|known| known.to_string());
        starting_with(current, names.map(|name| (name, String::new())))
    })
}

/// Completes a method of the contract that is on the command line.
pub(super) fn methods() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let described = contract_on_the_line().and_then(|contract| {
            let (_, schema) = client()?.describe(&contract).ok()?;
            Some(schema)
        });
        let methods = described.into_iter().flat_map(|schema| schema.methods);
        starting_with(
            current,
            methods.map(|method| (method.name, TypeText(&method.request).to_string())),
        )
    })
}

fn starting_with(
    current: &OsStr,
    words: impl Iterator<Item = (String, String)>,
) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else {
        return Vec::new();
    };
    words
        .filter(|(word, _)| word.starts_with(current))
        .map(|(word, help)| {
            let help = (!help.is_empty()).then(|| help.into());
            CompletionCandidate::new(word).help(help)
        })
        .collect()
}

fn client() -> Option<LocalClient> {
    let words: Vec<String> = std::env::args().collect();
    let root = words
        .iter()
        .position(|word| word == "--root")
        .and_then(|at| words.get(at + 1).cloned())
        .or_else(|| std::env::var("INSULA_ROOT").ok());
    let paths = Paths::new(root.map(Into::into));
    LocalClient::connect(&super::call::socket(&paths)).ok()
}

/// The word after `call`, where it is a contract.
fn contract_on_the_line() -> Option<ContractId> {
    std::env::args()
        .skip_while(|word| word != "call")
        .skip(1)
        .find_map(|word| word.parse().ok())
}
