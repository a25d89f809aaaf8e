//! Forms of contracts: which releases go together, and what is said where they do not.

mod support;

use support::Host;

fn serve(host: &Host, version: &str, form: u8) {
    let manifest = format!(
        "name = \"former\"\nversion = \"{version}\"\n[run]\nprofile = \"shared\"\n\
         command = [\"bin/misbehave\", \"serve\", \"{form}\"]\n[provides.\"form@1\"]\n"
    );
    let release = host.release(&format!("former-{version}"), &manifest, &["misbehave"]);
    host.must(&["install", support::path(&release)]);
}

fn consume(host: &Host) {
    let manifest = "name = \"user\"\nversion = \"1.0.0\"\n[run]\nprofile = \"shared\"\n\
        command = [\"bin/misbehave\", \"use\", \"1\"]\n[requires.\"form@1\"]\n";
    let release = host.release("user", manifest, &["misbehave"]);
    host.must(&["install", support::path(&release)]);
}

const MISFIT: &str = "form@1.measure.request.text: the provider takes at most 50, the consumer \
                      sends up to 100";

#[test]
fn an_upgrade_that_fits_its_users_goes_through_and_one_that_does_not_is_refused() {
    let mut host = Host::start();
    serve(&host, "1.0.0", 1);
    consume(&host);
    host.must(&["start", "former", "user"]);
    serve(&host, "2.0.0", 2);
    host.must(&["upgrade", "former"]);
    assert_eq!(host.row("former")["version"], "2.0.0");
    let before = (host.pid("former"), host.pid("user"));

    serve(&host, "3.0.0", 3);
    let refused = host.ctl(&["upgrade", "former"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(65), "{text}");
    assert!(text.contains("user could not use it"), "{text}");
    assert!(text.contains(MISFIT), "{text}");
    assert_eq!((host.pid("former"), host.pid("user")), before);
    assert_eq!(host.row("former")["version"], "2.0.0");

    // Another daemon hears the schemas anew.
    host.kill_daemon();
    host.start_daemon();
    host.wait_for_state("former", "READY");
    host.wait_for_state("user", "READY");
    let refused = host.ctl(&["upgrade", "former", "3.0.0"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.contains(MISFIT), "{text}");
    assert_eq!((host.pid("former"), host.pid("user")), before);

    let said = host.must(&["logs", "user"]);
    assert!(said.contains("called"), "{said}");
    assert!(!said.contains("error"), "{said}");

    // Without its user it may change.
    host.must(&["stop", "user"]);
    host.must(&["upgrade", "former", "3.0.0"]);
    assert_eq!(host.row("former")["version"], "3.0.0");
}

#[test]
fn a_consumer_that_does_not_fit_its_provider_is_not_started_and_told_why() {
    let host = Host::start();
    serve(&host, "1.0.0", 3);
    consume(&host);
    host.must(&["start", "former"]);
    let before = host.pid("former");
    let refused = host.ctl(&["start", "user"]);
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(7), "{text}");
    assert!(text.contains("it does not fit `former`"), "{text}");
    assert!(text.contains(MISFIT), "{text}");
    assert_eq!(host.pid("former"), before);
}
