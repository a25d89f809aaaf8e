//! `doctor`: what this host gives and lacks.

use std::io::IsTerminal;

use super::Exit;
use super::client::{Client, ClientError};
use crate::doctor::{self, By, Finding, Group, Host, Known, Report, Verdict};
use crate::paths::Paths;

/// Asks the daemon, which has the rights to look; looks itself where none answers.
pub(super) async fn run(
    client: &Client,
    paths: Paths,
    services: u64,
    json: bool,
) -> Result<Exit, ClientError> {
    let asked = client.get(&format!("/v1/doctor?services={services}")).await;
    let (report, why) = match asked {
        Ok(report) => (report, None),
        Err(error @ (ClientError::Connect { .. } | ClientError::Forbidden { .. })) => {
            match Host::here(Known::alone(paths), By::Insulactl, services) {
                Ok(host) => (doctor::examine(&host), Some(error.to_string())),
                Err(error) => {
                    eprintln!("error: cannot look at this host: {error}");
                    return Ok(Exit::Usage);
                }
            }
        }
        Err(error) => {
            super::report(&error);
            return Ok(Exit::Usage);
        }
    };
    if json {
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.unwrap_or_default());
    } else {
        let colours = std::io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        print!("{}", text(&report, why.as_deref(), colours));
    }
    Ok(exit(&report))
}

fn exit(report: &Report) -> Exit {
    if report.findings.iter().any(Finding::is_grave) {
        Exit::Failed
    } else {
        Exit::Done
    }
}

/// How a finding is, in words, and in which colour (of SGR).
fn state(finding: &Finding) -> (&'static str, &'static str) {
    match finding.verdict {
        Verdict::Ok => ("ok", "32"),
        Verdict::Missing {
            required: false, ..
        } => ("missing (recommended)", "33"),
        Verdict::Missing { required: true, .. } => ("missing (required)", "31"),
    }
}

fn text(report: &Report, why: Option<&str>, colours: bool) -> String {
    let states = report.findings.iter().map(|finding| state(finding).0.len());
    let states = states.max().unwrap_or(0);
    let names = report.findings.iter().map(|finding| finding.name.len());
    let names = names.max().unwrap_or(0);
    let paint = |text: &str, colour: &str| {
        if colours {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let mut lines = vec![match report.by {
        By::Insulad => format!(
            "insulad looked, as user {}, for {} services",
            report.uid, report.services
        ),
        By::Insulactl => format!(
            "{}: insulactl looked itself, for a daemon of user {} and {} services",
            why.unwrap_or("no daemon answers"),
            report.uid,
            report.services
        ),
    }];
    let mut group: Option<Group> = None;
    for finding in &report.findings {
        if group != Some(finding.group) {
            group = Some(finding.group);
            lines.push(String::new());
            lines.push(paint(finding.group.heading(), "1"));
        }
        let (state, colour) = state(finding);
        let filled = " ".repeat(states - state.len());
        lines.push(format!(
            "{}{filled}  {:names$}  {}",
            paint(state, colour),
            finding.name,
            finding.text
        ));
        if let Verdict::Missing { mend, .. } = &finding.verdict {
            lines.push(format!("{:states$}  {:names$}  mend: {mend}", "", ""));
        }
    }
    let missing = report.findings.iter().filter(|of| of.is_missing()).count();
    let grave = report.findings.iter().filter(|of| of.is_grave()).count();
    lines.push(String::new());
    lines.push(match missing {
        0 => "nothing is missing".to_owned(),
        _ => format!("{missing} missing, {grave} of them required"),
    });
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(group: Group, name: &str, verdict: Verdict) -> Finding {
        Finding {
            group,
            name: name.to_owned(),
            verdict,
            text: format!("all about {name}"),
        }
    }

    fn missing(required: bool) -> Verdict {
        let mend = "`sysctl this=that`".to_owned();
        Verdict::Missing { required, mend }
    }

    fn report() -> Report {
        Report {
            schema: 1,
            by: By::Insulad,
            uid: 0,
            services: 1_000,
            findings: vec![
                finding(Group::Kernel, "linux", Verdict::Ok),
                finding(Group::Walls, "own-uids", missing(true)),
                finding(Group::Walls, "signals", missing(false)),
            ],
        }
    }

    #[test]
    fn columns_are_aligned_under_the_heading_of_their_group() {
        assert_eq!(
            text(&report(), None, false),
            "insulad looked, as user 0, for 1000 services\n\
             \n\
             kernel\n\
             ok                     linux     all about linux\n\
             \n\
             walls\n\
             missing (required)     own-uids  all about own-uids\n\
             \u{20}                                mend: `sysctl this=that`\n\
             missing (recommended)  signals   all about signals\n\
             \u{20}                                mend: `sysctl this=that`\n\
             \n\
             2 missing, 1 of them required\n"
        );
    }

    #[test]
    fn colours_change_nothing_but_the_colour() {
        let coloured = text(&report(), None, true);
        assert!(coloured.contains("\x1b[31mmissing (required)\x1b[0m"));
        let mut plain = coloured;
        for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, text(&report(), None, false));
    }

    #[test]
    fn only_what_is_required_makes_the_exit_code() {
        let mut report = report();
        assert_eq!(exit(&report), Exit::Failed);
        report.findings.remove(1);
        assert_eq!(exit(&report), Exit::Done);
    }

    #[test]
    fn text_and_json_say_the_same() {
        let report = report();
        let text = text(&report, None, false);
        let json = serde_json::to_value(&report).unwrap();
        let findings = json["findings"].as_array().unwrap();
        let shown = text.lines().filter(|line| line.contains("all about"));
        for (line, finding) in shown.zip(findings) {
            let verdict = &finding["verdict"];
            let state = match (verdict["state"].as_str(), verdict["required"].as_bool()) {
                (Some("ok"), None) => "ok ",
                (Some("missing"), Some(true)) => "missing (required)",
                (Some("missing"), Some(false)) => "missing (recommended)",
                other => panic!("{other:?}"),
            };
            assert!(line.starts_with(state), "{line} {finding}");
            for key in ["name", "text"] {
                assert!(line.contains(finding[key].as_str().unwrap()), "{finding}");
            }
        }
        let mends = findings
            .iter()
            .filter_map(|of| of["verdict"]["mend"].as_str());
        let told = text.lines().filter_map(|line| line.split_once("  mend: "));
        assert!(mends.eq(told.map(|(_, mend)| mend)));
        assert_eq!(findings.len(), 3);
    }
}
