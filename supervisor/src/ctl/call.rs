//! `call`: one call of a contract's method, as an ordinary local program.
//!
//! It learns the schema from the daemon, which tells it to whoever may use the contract, and
//! talks to the provider itself. A provider could harm who maps its channel, so root never does:
//! run as root, this becomes the user who called sudo, or nobody, for good and before anything
//! else.

use std::io::Read;
use std::path::Path;

use insula_contract::id::ContractId;
use insula_contract::local::WhyNot;
use insula_contract::schema::{Schema, TypeSchema};
use insula_ipc::client::{CallError, CallOptions};
use insula_ipc::dynamic::{
    self, DynamicCallError, DynamicClient, DynamicConnectError, Signature, TypeText,
};
use insula_ipc::local::{LocalClient, LocalError};
use nix::unistd::{Gid, Uid, User, getgrouplist, setgid, setgroups, setuid};
use serde_json::Value;
use thiserror::Error;

use super::{Exit, duration};
use crate::paths::Paths;

/// The user `nobody` where the host does not name one.
const NOBODY: u32 = 65_534;

/// What is to be called.
#[derive(Debug, clap::Args)]
pub(super) struct CallArgs {
    /// The contract, like kv@1; all that may be used are listed unless given.
    #[arg(add = super::complete::contracts())]
    contract: Option<ContractId>,
    /// The method; all that the contract has are listed unless given.
    #[arg(add = super::complete::methods())]
    method: Option<String>,
    /// The request as JSON, or `-` to read it from the standard input; an example is shown unless
    /// given.
    request: Option<String>,
    /// How long to wait for the answer.
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    deadline: std::time::Duration,
    /// The user to call as; only root can be another one.
    #[arg(long = "as", value_name = "UID")]
    user: Option<u32>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
enum Failure {
    /// It cannot become an ordinary user.
    #[error("cannot become uid {uid}")]
    Become {
        /// Which.
        uid: u32,
        /// The cause.
        #[source]
        source: nix::Error,
    },
    /// Nobody but root becomes somebody else.
    #[error("uid {0} cannot become uid {1}: only root can")]
    NotRoot(Uid, u32),
    /// Root does not map channels.
    #[error("root does not call services: they could harm it")]
    AsRoot,
    /// The daemon or the edge.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// The contract is too large.
    #[error("cannot call `{0}`")]
    Contract(ContractId, #[source] DynamicConnectError),
    /// What was given is no JSON.
    #[error("the request is not JSON")]
    Json(#[source] serde_json::Error),
    /// It cannot be read.
    #[error("cannot read the request")]
    Read(#[source] std::io::Error),
    /// The answer cannot be shown.
    #[error("cannot call `{0}`")]
    Call(String, #[source] Box<DynamicCallError>),
}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Self::Become { .. } | Self::NotRoot(..) | Self::AsRoot => Exit::NotAllowed,
            Self::Local(LocalError::Reach { .. }) => Exit::Unreachable,
            Self::Local(LocalError::NotDescribed { why, .. }) => match why {
                WhyNot::Unknown => Exit::Failed,
                WhyNot::NotAllowed => Exit::NotAllowed,
                WhyNot::NotRunning => Exit::Busy,
            },
            Self::Local(_) | Self::Contract(..) | Self::Read(_) => Exit::Failed,
            Self::Json(_) => Exit::Usage,
            Self::Call(_, error) => match &**error {
                DynamicCallError::NoMethod { .. } | DynamicCallError::Request(_) => Exit::Usage,
                DynamicCallError::Call(
                    CallError::Unavailable
                    | CallError::Overloaded
                    | CallError::QuotaExceeded
                    | CallError::TooManyInFlight { .. },
                ) => Exit::Busy,
                DynamicCallError::Failed(_)
                | DynamicCallError::Call(_)
                | DynamicCallError::TooManyItems
                | DynamicCallError::Answer(_) => Exit::Failed,
            },
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Local(LocalError::Reach { .. }) => {
                Some("is insulad running, with the same --root?")
            }
            Self::Local(LocalError::NotDescribed { why, .. }) => match why {
                WhyNot::NotAllowed => Some("root calls as another user with `--as UID`"),
                WhyNot::NotRunning => Some("`insulactl start` it"),
                WhyNot::Unknown => Some("`insulactl call` lists what may be used"),
            },
            Self::AsRoot => Some("name another user with `--as UID`"),
            Self::Become { .. }
            | Self::NotRoot(..)
            | Self::Local(_)
            | Self::Contract(..)
            | Self::Json(_)
            | Self::Read(_)
            | Self::Call(..) => None,
        }
    }
}

/// Runs the verb; on the only thread that there is.
pub(super) fn run(paths: &Paths, args: &CallArgs) -> Exit {
    match call(paths, args) {
        Ok(exit) => exit,
        Err(failure) => {
            eprintln!("error: {failure}");
            let mut source = std::error::Error::source(&failure);
            while let Some(cause) = source {
                eprintln!("  {cause}");
                source = cause.source();
            }
            if let Some(hint) = failure.hint() {
                eprintln!("hint: {hint}");
            }
            failure.exit()
        }
    }
}

fn call(paths: &Paths, args: &CallArgs) -> Result<Exit, Failure> {
    become_ordinary(args.user)?;
    let client = LocalClient::connect(&socket(paths))?;
    let Some(contract) = &args.contract else {
        for contract in client.contracts()? {
            println!("{contract}");
        }
        return Ok(Exit::Done);
    };
    let (provider, schema) = client.describe(contract)?;
    let Some(name) = &args.method else {
        println!("{contract}, provided by {provider}");
        for method in &schema.methods {
            println!("  {}", Signature(method));
        }
        println!("errors: {}", TypeText(&schema.error));
        return Ok(Exit::Done);
    };
    let method = schema.methods.iter().find(|method| method.name == *name);
    let request = match (&args.request, method) {
        (None, Some(method)) if is_nothing(&method.request) => Value::Null,
        (None, Some(method)) => {
            println!("{}", Signature(method));
            let example = dynamic::example(&method.request);
            println!("for example: insulactl call {contract} {name} '{example}'");
            eprintln!("error: `{name}` takes a request");
            return Ok(Exit::Usage);
        }
        (Some(text), Some(_)) if text == "-" => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(Failure::Read)?;
            serde_json::from_str(&text).map_err(Failure::Json)?
        }
        (Some(text), Some(_)) => serde_json::from_str(text).map_err(Failure::Json)?,
        // What there is instead is told below.
        (_, None) => Value::Null,
    };
    let response = send(&client, contract, schema, name, &request, args.deadline)?;
    println!("{response:#}");
    Ok(Exit::Done)
}

fn send(
    client: &LocalClient,
    contract: &ContractId,
    schema: Schema,
    method: &str,
    request: &Value,
    deadline: std::time::Duration,
) -> Result<Value, Failure> {
    let edge = client.edge_of(contract, &schema)?;
    let calls = DynamicClient::connect(&edge, schema)
        .map_err(|error| Failure::Contract(contract.clone(), error))?;
    let options = CallOptions {
        deadline: Some(deadline),
        ..CallOptions::default()
    };
    calls
        .call(method, request, options)
        .map_err(|error| Failure::Call(method.to_owned(), Box::new(error)))
}

/// Whether a method takes no request.
fn is_nothing(schema: &TypeSchema) -> bool {
    matches!(schema, TypeSchema::Struct(fields) if fields.is_empty())
}

/// The socket of local clients.
pub(super) fn socket(paths: &Paths) -> std::path::PathBuf {
    Path::new(paths.run()).join(insula_contract::local::SOCKET)
}

/// Gives root's rights up, and says whom it has become.
fn become_ordinary(wanted: Option<u32>) -> Result<(), Failure> {
    let own = Uid::effective();
    if !own.is_root() {
        return match wanted {
            Some(uid) if uid != own.as_raw() => Err(Failure::NotRoot(own, uid)),
            Some(_) | None => Ok(()),
        };
    }
    let sudo = || std::env::var("SUDO_UID").ok()?.parse().ok();
    let uid = wanted
        .or_else(|| sudo().filter(|uid| *uid != 0))
        .unwrap_or_else(|| match User::from_name("nobody") {
            Ok(Some(nobody)) => nobody.uid.as_raw(),
            Ok(None) | Err(_) => NOBODY,
        });
    if uid == 0 {
        return Err(Failure::AsRoot);
    }
    let failed = |source| Failure::Become { uid, source };
    let user = User::from_uid(Uid::from_raw(uid)).map_err(failed)?;
    let (gid, groups, name) = match user {
        Some(user) => {
            let name = std::ffi::CString::new(user.name.clone()).unwrap_or_default();
            let groups = getgrouplist(&name, user.gid).map_err(failed)?;
            (user.gid, groups, user.name)
        }
        // Not in the host's list: no group but one of the same number.
        None => (Gid::from_raw(uid), Vec::new(), "without a name".to_owned()),
    };
    setgroups(&groups).map_err(failed)?;
    setgid(gid).map_err(failed)?;
    setuid(Uid::from_raw(uid)).map_err(failed)?;
    eprintln!("calling as uid {uid} ({name})");
    Ok(())
}
