//! `systemd`: the unit files.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::Exit;
use crate::systemd::units;

/// What `systemd` is asked.
#[derive(Debug, Args)]
pub(super) struct SystemdArgs {
    #[command(subcommand)]
    verb: SystemdVerb,
}

#[derive(Debug, Subcommand)]
enum SystemdVerb {
    /// Write the unit files, for the programs that lie beside this one.
    Install {
        /// Write below this directory instead of the host's root, as packaging wants.
        #[arg(long, value_name = "DIR", default_value = "/")]
        destdir: PathBuf,
        /// Where insulad and insulactl will lie; beside this program unless given.
        #[arg(long, value_name = "DIR")]
        bindir: Option<PathBuf>,
    },
    /// Remove the unit files.
    Uninstall {
        /// From below this directory instead of the host's root.
        #[arg(long, value_name = "DIR", default_value = "/")]
        destdir: PathBuf,
    },
    /// Print the unit files.
    Show,
}

pub(super) fn run(args: &SystemdArgs) -> Exit {
    match &args.verb {
        SystemdVerb::Install { destdir, bindir } => {
            let beside = std::env::current_exe()
                .ok()
                .and_then(|program| program.parent().map(Path::to_owned));
            let Some(programs) = bindir.clone().or(beside) else {
                eprintln!("error: cannot tell where insulad lies");
                eprintln!("hint: say it with --bindir");
                return Exit::Failed;
            };
            if destdir == Path::new("/") && !programs.join("insulad").exists() {
                eprintln!("error: there is no insulad in {}", programs.display());
                eprintln!("hint: say with --bindir where it lies");
                return Exit::Failed;
            }
            match units::install(destdir, &programs) {
                Ok(written) => {
                    list("wrote", &written);
                    if destdir == Path::new("/") {
                        println!(
                            "next: systemd-sysusers && systemd-tmpfiles --create && \
                             systemctl daemon-reload && systemctl enable --now insulad"
                        );
                    }
                    Exit::Done
                }
                Err(error) => refused("write", &error),
            }
        }
        SystemdVerb::Uninstall { destdir } => match units::uninstall(destdir) {
            Ok(removed) => {
                list("removed", &removed);
                Exit::Done
            }
            Err(error) => refused("remove", &error),
        },
        SystemdVerb::Show => {
            for file in units::FILES {
                println!("# /{}\n{}", file.path, file.text);
            }
            Exit::Done
        }
    }
}

fn list(what: &str, paths: &[PathBuf]) {
    for path in paths {
        println!("{what} {}", path.display());
    }
}

fn refused(what: &str, error: &std::io::Error) -> Exit {
    eprintln!("error: cannot {what} the unit files");
    eprintln!("  {error}");
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => Exit::NotAllowed,
        _ => Exit::Failed,
    }
}
