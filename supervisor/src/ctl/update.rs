//! `update` and `check`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use insula_core::event::Done;

use super::client::{Client, ClientError};
use super::{Exit, progress::Progress};
use crate::config::{Facts, HostFiles, MANIFEST, Profiles, Subject, check_manifest};
use crate::driver::update::{Change, Effect, UpdateReport};
use crate::paths::Paths;

pub(super) async fn run(client: &Client, dry_run: bool, json: bool) -> Result<Exit, ClientError> {
    let mut progress = Progress::new();
    if !dry_run {
        progress.show("updating");
    }
    let report = ask(client, dry_run).await?;
    progress.clear();
    if json {
        let text = serde_json::to_string_pretty(&report).unwrap_or_default();
        println!("{text}");
    } else if report.problems.is_empty() {
        if report.changes.is_empty() {
            println!("Nothing changed");
        }
        for change in &report.changes {
            println!("{}", line(change, dry_run));
        }
    } else {
        tell(&report.problems);
    }
    let failed = |change: &Change| matches!(change.outcome, Some(Err(_)));
    Ok(if !report.problems.is_empty() {
        Exit::Failed
    } else if report.changes.iter().any(failed) {
        Exit::NotStarted
    } else {
        Exit::Done
    })
}

pub(super) async fn check_host(client: &Client) -> Result<Exit, ClientError> {
    let report = ask(client, true).await?;
    if report.problems.is_empty() {
        println!("The host's files are sound");
        Ok(Exit::Done)
    } else {
        tell(&report.problems);
        Ok(Exit::Failed)
    }
}

async fn ask(client: &Client, dry_run: bool) -> Result<UpdateReport, ClientError> {
    client
        .report(&format!("/v1/update?dry-run={dry_run}"))
        .await
}

fn tell(problems: &[String]) {
    eprintln!("error: the host's files cannot be taken in; nothing changed");
    for problem in problems {
        eprintln!("  {}", problem.replace('\n', "\n  "));
    }
}

fn line(change: &Change, dry_run: bool) -> String {
    let keys = if change.keys.is_empty() {
        String::new()
    } else {
        format!(" ({})", change.keys.join(", "))
    };
    let name = &change.name;
    let done = match (&change.outcome, change.effect) {
        _ if dry_run => {
            let would = match change.effect {
                Effect::Start => "would be added and started",
                Effect::Add => "would be added",
                Effect::Restart => "would be restarted",
                Effect::Apply => "would be changed without a restart",
                Effect::Remove => "would be stopped and removed",
            };
            return format!("{name}: {would}{keys}");
        }
        (Some(Err(text)), _) => return format!("{name}: ERROR{keys}: {text}"),
        (Some(Ok(Done::Started)), _) => "added and started",
        (Some(Ok(Done::Restarted)), _) => "restarted",
        (_, Effect::Start | Effect::Add) => "added",
        (_, Effect::Remove) => "removed",
        (_, Effect::Restart | Effect::Apply) => "changed",
    };
    format!("{name}: {done}{keys}")
}

/// Checks a release where it lies, without a daemon.
pub(super) fn check_release(paths: &Paths, path: &Path) -> Exit {
    let manifest = if path.is_dir() {
        path.join(MANIFEST)
    } else {
        path.to_owned()
    };
    let release = manifest.parent().unwrap_or(Path::new(""));
    let text = match std::fs::read_to_string(&manifest) {
        Ok(text) => text,
        Err(error) => {
            eprintln!("error: cannot read {}: {error}", manifest.display());
            return Exit::Failed;
        }
    };
    let etc = paths.etc();
    let profiles = HostFiles::read(etc).and_then(|files| {
        Profiles::of_text(&etc.join("profiles.toml"), &files.profiles)
            .map_err(|error| vec![error.to_string()])
    });
    let profiles = match profiles {
        Ok(profiles) => profiles,
        Err(problems) => {
            tell(&problems);
            return Exit::Failed;
        }
    };
    let program = |name: &str| match std::fs::symlink_metadata(release.join(name)) {
        Ok(found) if !found.is_file() => Some(format!("`{name}` is no file")),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => {
            Some(format!("`{name}` is not executable"))
        }
        Ok(_) => None,
        Err(_) => Some(format!("the release has no file `{name}`")),
    };
    let facts = Facts {
        subject: Subject::Release,
        profiles: &profiles,
        program: &program,
    };
    match check_manifest(&manifest.to_string_lossy(), &text, &facts) {
        Ok(spec) => {
            println!("{} {} is sound", spec.name, spec.version);
            Exit::Done
        }
        Err(problems) => {
            eprintln!("{problems}");
            Exit::Failed
        }
    }
}
