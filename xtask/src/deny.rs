//! cargo-deny: found on the search path, or built once below the target directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::check::{Check, cargo, whole};
use crate::process::run_within;
use crate::tally::Tally;

/// The version that deny.toml is written for.
const VERSION: &str = "0.20.2";

/// How long the RustSec database may take to arrive.
const FETCH_LIMIT: Duration = Duration::from_secs(120);

/// Checks licences, bans and sources, which needs nothing but the dependencies themselves.
pub(crate) fn lists(root: &Path) -> Tally {
    match find(root) {
        Ok(tool) => whole(
            Check::Deny,
            deny(&tool, root, &["check", "licenses", "bans", "sources"]),
        ),
        Err(why) => Tally::skipped(&Check::Deny.to_string(), why),
    }
}

/// Checks the dependencies against the RustSec database, where it can be had.
pub(crate) fn advisories(root: &Path) -> Tally {
    let name = Check::Advisories.to_string();
    let tool = match find(root) {
        Ok(tool) => tool,
        Err(why) => return Tally::skipped(&name, why),
    };
    println!(
        "fetching the RustSec database (up to {} s)",
        FETCH_LIMIT.as_secs()
    );
    match run_within(&mut deny(&tool, root, &["fetch", "db"]), FETCH_LIMIT) {
        Ok(Some(status)) if status.success() => whole(
            Check::Advisories,
            deny(&tool, root, &["check", "--disable-fetch", "advisories"]),
        ),
        Ok(_) => Tally::skipped(
            &name,
            "needs the RustSec database, which could not be fetched",
        ),
        Err(error) => Tally::failed(format!("{name}: cannot run {}: {error}", tool.display())),
    }
}

fn deny(tool: &Path, root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(tool);
    command.current_dir(root).args(arguments);
    command
}

/// Where cargo-deny is, building it if need be; or why it cannot be had.
fn find(root: &Path) -> Result<PathBuf, String> {
    let tools = crate::target().join("tools");
    let own = tools.join("bin/cargo-deny");
    for tool in [PathBuf::from("cargo-deny"), own.clone()] {
        if runs(&tool) {
            return Ok(tool);
        }
    }
    println!("building cargo-deny {VERSION}, once; this takes several minutes");
    let version = format!("={VERSION}");
    let mut install = cargo(
        root,
        &["install", "--locked", "--version", &version, "--root"],
    );
    install.arg(&tools).arg("cargo-deny");
    match install.status() {
        Ok(status) if status.success() && runs(&own) => Ok(own),
        Ok(status) => Err(format!("cargo-deny {VERSION} could not be built: {status}")),
        Err(error) => Err(format!("cargo could not be run: {error}")),
    }
}

fn runs(tool: &Path) -> bool {
    Command::new(tool)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
