//! `install`: verified and copied beside the loop, taken up within it.

use std::path::PathBuf;

use insula_core::event::Event;
use insula_core::spec::ServiceSpec;
use tokio::sync::mpsc;

use super::ask::InstallNews;
use super::{Driver, DriverError, News, because};
use crate::release::{Installed, Staged};

/// How an installation ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    result: Result<Staged, Vec<String>>,
    news: mpsc::UnboundedSender<InstallNews>,
}

impl Driver {
    /// Verifies and copies a release on a thread of its own.
    pub(super) fn install(&mut self, path: PathBuf, news: mpsc::UnboundedSender<InstallNews>) {
        let depot = self.depot.clone();
        let profiles = self.profiles.clone();
        let inbox = self.news.clone();
        tokio::task::spawn_blocking(move || {
            let result = depot.stage(&path, &profiles, &mut |done, total| {
                // Who asked may have gone; the installation goes on.
                let _ = news.send(InstallNews::Progress { done, total });
            });
            let _ = inbox.send(News::Installed(Box::new(Outcome { result, news })));
        });
    }

    /// Takes a verified release up, unless something that runs speaks against it.
    pub(super) fn installed(&mut self, outcome: Outcome) -> Result<(), DriverError> {
        let Outcome { result, news } = outcome;
        let staged = match result {
            Ok(staged) => staged,
            Err(problems) => {
                let _ = news.send(InstallNews::Refused {
                    problems,
                    hint: None,
                });
                return Ok(());
            }
        };
        let spec: ServiceSpec = match self.as_wanted(staged.spec()) {
            Ok(spec) => spec,
            Err(problems) => {
                let hint = "the host's file of this service must fit the release, too".to_owned();
                let hint = Some(hint);
                let _ = news.send(InstallNews::Refused { problems, hint });
                return Ok(());
            }
        };
        let problems = self.core.check_install(&spec);
        if !problems.is_empty() {
            let hint = Some("a provider is installed before those who use it".to_owned());
            let _ = news.send(InstallNews::Refused { problems, hint });
            return Ok(());
        }
        let answer = match self.depot.commit(staged) {
            Ok(Installed { hash, already }) => {
                let known = self
                    .core
                    .services()
                    .get(&spec.name)
                    .is_some_and(|service| service.releases.contains_key(&spec.version));
                let (name, version) = (spec.name.clone(), spec.version.clone());
                if !known {
                    self.turn(Event::Installed {
                        spec: Box::new(spec),
                    })?;
                }
                InstallNews::Installed {
                    name,
                    version,
                    hash,
                    already,
                }
            }
            Err(error) => InstallNews::Refused {
                problems: vec![because("cannot put it into the depot", &error)],
                hint: None,
            },
        };
        let _ = news.send(answer);
        Ok(())
    }
}
