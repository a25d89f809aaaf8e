//! What the same attacks came to behind the walls and without them, side by side.
//!
//! An attack counts only if it works without the walls: else its failure behind them shows nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

/// The tables that attackers left.
#[derive(Debug, Args)]
pub(crate) struct Tables {
    /// Of a service behind all walls.
    #[arg(long)]
    walled: PathBuf,
    /// Of a service under `insulad --isolation none`.
    #[arg(long)]
    open: PathBuf,
    /// Of an ordinary program of root; it need not have tried what succeeded for the service.
    #[arg(long)]
    root: PathBuf,
}

/// What came of an attack.
#[derive(Debug)]
struct Outcome {
    walls: String,
    text: String,
    succeeded: bool,
    /// What it got, or why nothing.
    words: String,
}

type Table = BTreeMap<String, Outcome>;

/// Prints a line for each attack; gives what speaks against the walls or the attacks.
pub(crate) fn judge(tables: &Tables) -> io::Result<Vec<String>> {
    let walled = read(&tables.walled)?;
    let (open, root) = (read(&tables.open)?, read(&tables.root)?);
    let mut problems = Vec::new();
    println!("attack | what it does | without walls | behind walls | by");
    for (name, behind) in &walled {
        let without = match (open.get(name), root.get(name)) {
            (Some(open), _) if open.succeeded => format!("succeeds: {}", open.words),
            (Some(_), Some(root)) if root.succeeded => {
                format!("succeeds for root: {}", root.words)
            }
            (Some(_), Some(root)) if is_unknown_here(name, &root.words) => {
                format!("not in this kernel: {}", root.words)
            }
            (Some(_), Some(root)) => {
                problems.push(format!("{name} proves nothing: {root:?}"));
                format!("denied: {}", root.words)
            }
            (None, _) | (_, None) => {
                problems.push(format!("{name} was not tried without the walls"));
                "not tried".to_owned()
            }
        };
        let with = if behind.succeeded {
            problems.push(format!("{name} succeeded behind the walls: {behind:?}"));
            "SUCCEEDS"
        } else {
            "denied"
        };
        let (text, words, walls) = (&behind.text, &behind.words, &behind.walls);
        println!("{name} | {text} | {without} | {with}: {words} | {walls}");
    }
    println!("{} attacks", walled.len());
    if walled.is_empty() {
        problems.push("there was no attack".to_owned());
    }
    Ok(problems)
}

/// The names of the attacks that succeeded by a table.
pub(super) fn succeeded(path: &Path) -> io::Result<BTreeSet<String>> {
    let rows = read(path)?.into_iter();
    Ok(rows
        .filter(|(_, outcome)| outcome.succeeded)
        .map(|(name, _)| name)
        .collect())
}

fn read(path: &Path) -> io::Result<Table> {
    fs::read_to_string(path)?.lines().map(row).collect()
}

fn row(line: &str) -> io::Result<(String, Outcome)> {
    let fields: Vec<_> = line.split('\t').collect();
    let [name, walls, text, outcome @ ("succeeded" | "denied"), words] = fields[..] else {
        return Err(io::Error::other(format!("no outcome of an attack: {line}")));
    };
    let outcome = Outcome {
        walls: walls.to_owned(),
        text: text.to_owned(),
        succeeded: outcome == "succeeded",
        words: words.to_owned(),
    };
    Ok((name.to_owned(), outcome))
}

/// Whether the kernel does not have what the attack is about.
fn is_unknown_here(name: &str, words: &str) -> bool {
    let of = |error: i32| words.ends_with(&format!("(os error {error})"));
    let missing = [
        libc::ENOSYS,
        libc::EAFNOSUPPORT,
        libc::EOPNOTSUPP,
        libc::EPROTONOSUPPORT,
        libc::ENODEV,
    ];
    missing.iter().any(|error| of(*error)) || (name == "cgroups" && of(libc::ENOENT))
}
