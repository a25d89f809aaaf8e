//! Drives `insulad`.

fn main() -> std::process::ExitCode {
    insula_supervisor::ctl::main()
}
