//! A service's life: in touch, ready, leading, yielding, draining, gone.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, mpsc};

use insula_ipc::contract::Contract;
use insula_ipc::protocol::id::{Attempt, Epoch, Instance, ServiceName};
use insula_ipc::protocol::line::{
    ContractView, ENV_ATTEMPT, ENV_DATA, ENV_INSTANCE, FromService, Leadership,
};
use insula_ipc::protocol::schema::Schema;
use insula_ipc::server::{Dispatch, Journal, NoJournal, Server};

use crate::line::{self, Command, Commands};
use crate::logging;
use crate::runtime::{Runtime, Shared};
use crate::store::{Store, StoreError};

/// Why a service cannot go on.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// `EX_USAGE`: not started as it is meant to be.
const EX_USAGE: u8 = 64;
/// `EX_SOFTWARE`: failed.
const EX_SOFTWARE: u8 = 70;

/// What a service writes, if anything: a [`Store`], or [`crate::NoStore`].
pub trait Writes: Journal {
    /// Whether one process at a time may write it.
    const NEEDS_LEADER: bool;
    /// Whether it may still write in the turn that it took: a later one may have overtaken it.
    fn leads(&self) -> bool;
    /// Takes a turn.
    fn lead(&mut self, epoch: Epoch) -> Result<(), StoreError>;
    /// Ends it.
    fn give_up(&mut self) -> Result<(), StoreError>;
}

impl Writes for NoJournal {
    const NEEDS_LEADER: bool = false;
    fn leads(&self) -> bool {
        true
    }
    fn lead(&mut self, _: Epoch) -> Result<(), StoreError> {
        Ok(())
    }
    fn give_up(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Writes for Store {
    const NEEDS_LEADER: bool = true;
    fn leads(&self) -> bool {
        self.epoch().is_some()
    }
    fn lead(&mut self, epoch: Epoch) -> Result<(), StoreError> {
        Store::lead(self, epoch)
    }
    fn give_up(&mut self) -> Result<(), StoreError> {
        Store::give_up(self)
    }
}

/// What a service is told when it sets itself up.
#[derive(Debug, Clone)]
pub struct Context {
    data: PathBuf,
    release: String,
    runtime: Runtime,
}

impl Context {
    /// The directory that is the service's own.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The version of the release that runs.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Access to the contracts that the service requires.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

/// A service that is being described.
#[derive(Debug, Default)]
pub struct Service {
    requires: Vec<ContractView>,
    schemas: Vec<Schema>,
    data_schema: u32,
}

impl Service {
    /// A service that uses nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// It uses this contract, as its `service.toml` says too.
    pub fn requires<C: Contract>(mut self) -> Self {
        self.requires.push(view::<C>());
        self.schemas.push(C::schema());
        self
    }

    /// The version of its data's schema, as its `service.toml` says too.
    pub fn data_schema(mut self, schema: u32) -> Self {
        self.data_schema = schema;
        self
    }

    /// Provides a contract from the main thread until the process is to end.
    ///
    /// `set_up` opens what is needed; the service is ready when it returns.
    pub fn serve<D, J>(
        mut self,
        set_up: impl FnOnce(&Context) -> Result<(D, J), Failure>,
    ) -> ExitCode
    where
        D: Dispatch,
        J: Writes,
    {
        let leadership = if J::NEEDS_LEADER {
            Leadership::Following
        } else {
            Leadership::NotNeeded
        };
        self.schemas.push(D::Contract::schema());
        self.live(
            vec![view::<D::Contract>()],
            leadership,
            |context, commands, received| {
                let (dispatch, journal) = set_up(&context)?;
                Provider::new(&context, commands, dispatch, journal)?.run(received)
            },
        )
    }

    /// Runs a program with a main loop of its own; it says [`Runtime::ready`] when it is, and
    /// returns some time after [`Runtime::wait_for_stop`] does.
    pub fn run(self, main: impl FnOnce(&Context) -> Result<(), Failure>) -> ExitCode {
        self.live(Vec::new(), Leadership::NotNeeded, |context, _, _| {
            main(&context)
        })
    }

    fn live(
        self,
        provides: Vec<ContractView>,
        leadership: Leadership,
        work: impl FnOnce(Context, Commands, mpsc::Receiver<Command>) -> Result<(), Failure>,
    ) -> ExitCode {
        let Some((environment, listener)) = Environment::read() else {
            eprintln!("error: this program is a service of Insula and is started by insulad");
            eprintln!("hint: `insulactl install` its release, then `insulactl start` it");
            return ExitCode::from(EX_USAGE);
        };
        logging::set_up();
        let shared = Arc::new(Shared::new(
            environment.attempt,
            environment.instance,
            provides,
            self.requires,
            self.schemas,
            self.data_schema,
            leadership,
        ));
        let (sender, received) = mpsc::channel();
        let commands = Commands {
            sender,
            waker: Arc::new(OnceLock::new()),
        };
        let context = Context {
            data: environment.data,
            release: environment.release,
            runtime: Runtime {
                shared: shared.clone(),
            },
        };
        let lived = line::signals().map_err(Failure::from).and_then(|signals| {
            let (kept, ways) = (shared.clone(), commands.clone());
            std::thread::Builder::new()
                .name("line".to_owned())
                .spawn(move || line::keep(&kept, &listener, &signals, &ways))?;
            work(context, commands, received)
        });
        match lived {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let mut reason = error.to_string();
                let mut source = error.source();
                while let Some(cause) = source {
                    reason = format!("{reason}: {cause}");
                    source = cause.source();
                }
                tracing::error!("{reason}");
                shared.say(&FromService::Failing { reason });
                ExitCode::from(EX_SOFTWARE)
            }
        }
    }
}

fn view<C: Contract>() -> ContractView {
    ContractView {
        contract: C::id(),
        schema: C::schema().hash(),
    }
}

struct Environment {
    attempt: Attempt,
    instance: Instance,
    data: PathBuf,
    release: String,
}

impl Environment {
    fn read() -> Option<(Self, std::os::fd::OwnedFd)> {
        let attempt = Attempt(std::env::var(ENV_ATTEMPT).ok()?.parse().ok()?);
        let instance = std::env::var(ENV_INSTANCE).ok()?;
        let (service, index) = instance.split_once(':')?;
        let service: ServiceName = service.parse().ok()?;
        let environment = Self {
            attempt,
            instance: Instance {
                service,
                index: index.parse().ok()?,
            },
            data: std::env::var_os(ENV_DATA)?.into(),
            release: std::env::var("INSULA_RELEASE").unwrap_or_default(),
        };
        Some((environment, line::inherited()?))
    }
}

struct Provider<'a, D, J> {
    shared: &'a Shared,
    server: Server<D, J>,
    /// Has a turn, as far as it was told.
    leading: bool,
}

impl<'a, D: Dispatch, J: Writes> Provider<'a, D, J> {
    fn new(
        context: &'a Context,
        commands: Commands,
        dispatch: D,
        journal: J,
    ) -> Result<Self, Failure> {
        let shared = &*context.runtime.shared;
        let welcomed = shared
            .wait(None, |state| {
                state
                    .welcomed
                    .clone()
                    .map(Some)
                    .or_else(|| state.stopping.then_some(None))
            })
            .flatten()
            .ok_or("stopped before the supervisor said welcome")?;
        let mut server = Server::new(
            shared.attempt,
            welcomed.slot,
            welcomed.spin,
            dispatch,
            journal,
        );
        if let Some(meters) = shared.state().meters.clone() {
            server.meter(meters);
        }
        if J::NEEDS_LEADER {
            server.lead(false);
        }
        // Set once: there is one provider in a process.
        let _ = commands.waker.set(server.waker());
        Ok(Self {
            shared,
            server,
            leading: false,
        })
    }

    fn run(mut self, received: mpsc::Receiver<Command>) -> Result<(), Failure> {
        self.shared.change(|state| state.ready = true);
        self.shared.say(&FromService::Ready);
        loop {
            while let Ok(command) = received.try_recv() {
                if matches!(command, Command::Stop) {
                    // What was accepted is answered; what arrives goes elsewhere.
                    self.server.drain();
                    self.give_up()?;
                    return Ok(());
                }
                self.obey(command)?;
            }
            if !self.server.turn() {
                self.server.park();
            } else if self.leading && !self.server.journal_mut().leads() {
                // What it was asked to write meanwhile was refused, and goes to the other one.
                return Err("another process took the next turn at the store".into());
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Welcome | Command::Stop => {}
            Command::Serve(edge, _)
                if self
                    .server
                    .edges()
                    .any(|(_, consumer)| consumer == edge.consumer) => {}
            Command::Serve(edge, page) => {
                let id = edge.edge;
                match self.server.serve(edge, page) {
                    Ok(()) => {
                        self.shared.change(|state| {
                            state.serving.retain(|known| *known != id);
                            state.serving.push(id);
                        });
                        self.shared.say(&FromService::Serving { edge: id });
                    }
                    // Its client may have left meanwhile, and its channel with it.
                    Err(error) => tracing::warn!(edge = %id, "{}", causes(&error)),
                }
            }
            Command::Unserve(edge, consumer) => {
                // A later supervisor may know the edge by another number; the attempt is one.
                let known: Vec<_> = self
                    .server
                    .edges()
                    .filter(|(_, c)| *c == consumer)
                    .collect();
                for (known, consumer) in known {
                    self.server.unserve(known, consumer);
                }
                let left = self.server.edges().any(|(known, _)| known == edge);
                self.shared.change(|state| {
                    state.serving.retain(|known| *known != edge || left);
                });
            }
            Command::Lead(epoch) => {
                self.server.journal_mut().lead(epoch)?;
                self.server.lead(true);
                self.leading = true;
                let leadership = Leadership::Leading(epoch);
                self.shared.change(|state| state.leadership = leadership);
                self.shared.say(&FromService::Leading { epoch });
            }
            Command::Yield(epoch) => {
                self.server.lead(false);
                // What arrived and was not taken is refused, and goes to the next leader.
                while self.server.turn() {}
                self.give_up()?;
                self.shared.say(&FromService::Yielded { epoch });
            }
            Command::Drain => {
                self.server.drain();
                self.give_up()?;
                self.shared.say(&FromService::Drained);
            }
            Command::Ping(ping) => {
                if self.server.dispatch_mut().is_moving() {
                    self.shared.say(&FromService::Pong { ping });
                }
            }
        }
        Ok(())
    }

    fn give_up(&mut self) -> Result<(), StoreError> {
        self.leading = false;
        if J::NEEDS_LEADER {
            self.server.journal_mut().give_up()?;
            self.shared
                .change(|state| state.leadership = Leadership::Following);
        }
        Ok(())
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
