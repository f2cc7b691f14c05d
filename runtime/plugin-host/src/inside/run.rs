//! The main thread's loop: calls between steps, steps while sequences run.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use witness_plugin_abi::ServeTable;
use witness_plugin_protocol::{Diagnostic, Kind};

use super::EXIT_PANICKED;
use super::events::{Batch, Sequence, Sequences};
use super::jobs;
use super::library::{CallFailure, Library, slice_of};
use super::link::{Command, Link};
use crate::frame::{CallHeader, FrameKind, Operation};

/// Steps of one model without any event after which its sequences are given up: a prompt of a million tokens taken one at a time.
const QUIET_STEPS_MAX: u64 = 1 << 20;

/// Whether the loop goes on.
enum Next {
    Go,
    /// Leave with this exit code.
    Leave(u8),
}

/// One loaded model.
#[derive(Default)]
struct Model {
    sequences: Sequences,
    quiet_steps: u64,
}

struct Engine<'a> {
    library: &'a Library,
    link: &'a Arc<Link>,
    models: BTreeMap<u64, Model>,
    /// Capacity that travels from batch to batch.
    payload: Vec<u8>,
    has_warned_of_strays: bool,
}

/// Runs the plugin until the host says stop or the plugin panicked; returns the exit code.
pub(super) fn run(library: &Library, link: &Arc<Link>, commands: &Receiver<Command>) -> io::Result<u8> {
    let (models, payload) = (BTreeMap::new(), Vec::new());
    let mut engine = Engine {
        library,
        link,
        models,
        payload,
        has_warned_of_strays: false,
    };
    let code = engine.run(commands)?;
    if code == 0 {
        link.begin(Operation::Shutdown);
        library.shutdown();
    }
    Ok(code)
}

impl Engine<'_> {
    fn run(&mut self, commands: &Receiver<Command>) -> io::Result<u8> {
        loop {
            let is_idle = self.models.values().all(|model| model.sequences.is_empty());
            let command = if is_idle {
                self.link.begin(Operation::Idle);
                commands.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                commands.try_recv()
            };
            let next = match command {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => self.step_all()?,
                Err(TryRecvError::Disconnected) => Next::Leave(0),
            };
            if let Next::Leave(code) = next {
                return Ok(code);
            }
        }
    }

    fn obey(&mut self, command: Command) -> io::Result<Next> {
        match command {
            Command::Stop => Ok(Next::Leave(0)),
            Command::Cancel { sequence } => self.cancel(sequence),
            Command::Call { id, header, body, gate } => {
                self.link.begin(header.operation);
                let outcome = match header.operation {
                    Operation::Plan | Operation::Run => {
                        jobs::call(self.library, self.link, id, header, &body, gate).map(|reply| (header.model, reply))
                    }
                    _ => self.call(id, header, &body),
                };
                self.link.progress();
                match outcome {
                    Ok((model, reply)) => {
                        self.link.send(FrameKind::Reply, id, &[&model.to_le_bytes(), &reply])?;
                        Ok(Next::Go)
                    }
                    Err(failure) => {
                        self.link
                            .send(FrameKind::Failure, id, &[&serde_json::to_vec(&*failure.diagnostic)?])?;
                        self.after(&failure)
                    }
                }
            }
        }
    }

    /// Makes one call. Returns the model's number and the reply.
    fn call(&mut self, id: u64, header: CallHeader, body: &[u8]) -> Result<(u64, Vec<u8>), CallFailure> {
        let (serve, mut model, request) = (self.serve(header.operation)?, header.model, slice_of(body));
        let reply = self.library.call(header.operation, |reply| {
            // SAFETY: every function of the table was proven not null; `body`, `model` and `reply` outlive the call; all calls are
            // made from this thread, one at a time.
            unsafe {
                match header.operation {
                    Operation::Inspect => (serve.inspect)(request, reply),
                    Operation::Load => (serve.load)(request, &raw mut model, reply),
                    Operation::Unload => (serve.unload)(model, reply),
                    Operation::LoadAdapter => (serve.load_adapter)(model, request, reply),
                    Operation::UnloadAdapter => (serve.unload_adapter)(model, request, reply),
                    Operation::Start => (serve.start)(model, id, request, reply),
                    Operation::Idle
                    | Operation::Open
                    | Operation::Cancel
                    | Operation::Step
                    | Operation::Shutdown
                    | Operation::Plan
                    | Operation::Run => witness_plugin_abi::Status::REFUSED,
                }
            }
        })?;
        match header.operation {
            Operation::Start => {
                let sequence = Sequence {
                    tokens_left: header.tokens_max,
                };
                self.models.entry(model).or_default().sequences.insert(id, sequence);
            }
            Operation::Unload => self.forget(model)?,
            _ => {}
        }
        Ok((model, reply))
    }

    /// Returns the table of the role `serve`, which the sequences of this engine come from.
    fn serve(&self, operation: Operation) -> Result<&'static ServeTable, Box<Diagnostic>> {
        self.library.serve().ok_or_else(|| {
            let message = format!(
                "this plugin does not have the role `serve`, which `{}` needs",
                operation.name()
            );
            Box::new(Diagnostic::new("witness::plugin::no_role", Kind::Unsupported, message))
        })
    }

    /// Drops a model that was unloaded; whoever still listens to it is told.
    fn forget(&mut self, model: u64) -> Result<(), CallFailure> {
        if let Some(mut model) = self.models.remove(&model) {
            let unloaded = Diagnostic::new(
                "witness::plugin::model_unloaded",
                Kind::Cancelled,
                "the model was unloaded meanwhile",
            );
            let mut batch = Batch::new(self.link, &mut model.sequences, Vec::new());
            batch.fail_all(&unloaded);
            // A broken connection shows at the reply that follows.
            let _ = batch.finish();
        }
        Ok(())
    }

    fn cancel(&mut self, sequence: u64) -> io::Result<Next> {
        let holder = self
            .models
            .iter_mut()
            .find(|(_, model)| model.sequences.contains_key(&sequence));
        let Some((model, state)) = holder else {
            // It ended by itself before the word arrived.
            return Ok(Next::Go);
        };
        state.sequences.remove(&sequence);
        let model = *model;
        self.tell_cancelled(model, sequence)
    }

    fn tell_cancelled(&mut self, model: u64, sequence: u64) -> io::Result<Next> {
        self.link.begin(Operation::Cancel);
        let outcome = self
            .serve(Operation::Cancel)
            .map_err(CallFailure::from)
            .and_then(|serve| {
                // SAFETY: proven not null; made from the one calling thread.
                self.library.call(Operation::Cancel, |reply| unsafe {
                    (serve.cancel)(model, sequence, reply)
                })
            });
        self.link.progress();
        match outcome {
            Ok(_) => Ok(Next::Go),
            Err(failure) => self.after(&failure),
        }
    }

    /// Steps every model that has running sequences, once.
    fn step_all(&mut self) -> io::Result<Next> {
        let active: Vec<u64> = self
            .models
            .iter()
            .filter(|(_, model)| !model.sequences.is_empty())
            .map(|(number, _)| *number)
            .collect();
        for model in active {
            if let Next::Leave(code) = self.step(model)? {
                return Ok(Next::Leave(code));
            }
        }
        Ok(Next::Go)
    }

    fn step(&mut self, number: u64) -> io::Result<Next> {
        let (Some(model), Some(serve)) = (self.models.get_mut(&number), self.library.serve()) else {
            return Ok(Next::Go);
        };
        self.link.begin(Operation::Step);
        let mut batch = Batch::new(self.link, &mut model.sequences, std::mem::take(&mut self.payload));
        let sink = batch.sink();
        let mut running = 0;
        let outcome = self.library.call(Operation::Step, |reply| {
            // SAFETY: proven not null; sink, `running` and `reply` outlive the call, and the batch behind the sink is not touched
            // before it returns.
            unsafe { (serve.step)(number, &raw const sink, &raw mut running, reply) }
        });
        model.quiet_steps = if batch.accepted > 0 { 0 } else { model.quiet_steps + 1 };
        let broken = std::mem::take(&mut batch.broken);
        let strays = batch.strays;
        let lost = match &outcome {
            Err(failure) => Some((*failure.diagnostic).clone()),
            Ok(_) if running == 0 => Some(lost(
                "the plugin says that nothing is running, and did not end the answer",
            )),
            Ok(_) if model.quiet_steps > QUIET_STEPS_MAX => Some(lost(&format!(
                "the plugin took {QUIET_STEPS_MAX} steps without an event"
            ))),
            Ok(_) => None,
        };
        if let Some(diagnostic) = lost {
            batch.fail_all(&diagnostic);
        }
        self.payload = batch.finish()?;
        if strays > 0 && !std::mem::replace(&mut self.has_warned_of_strays, true) {
            eprintln!(
                "<4>the plugin sent {strays} events in one step for sequences that are not running; such events are dropped"
            );
        }
        if let Err(failure) = outcome {
            return self.after(&failure);
        }
        for sequence in broken {
            if let Next::Leave(code) = self.tell_cancelled(number, sequence)? {
                return Ok(Next::Leave(code));
            }
        }
        Ok(Next::Go)
    }

    /// A panic ends the worker, after everybody who listens was told why.
    fn after(&mut self, failure: &CallFailure) -> io::Result<Next> {
        if !failure.is_panic {
            return Ok(Next::Go);
        }
        for model in self.models.values_mut() {
            let mut batch = Batch::new(self.link, &mut model.sequences, Vec::new());
            batch.fail_all(&failure.diagnostic);
            batch.finish()?;
        }
        Ok(Next::Leave(EXIT_PANICKED))
    }
}

fn lost(fault: &str) -> Diagnostic {
    Diagnostic::new(
        "witness::plugin::sequence_lost",
        Kind::Plugin,
        "the plugin lost track of the answer",
    )
    .cause(fault)
    .hint("report it to the plugin's author")
}
