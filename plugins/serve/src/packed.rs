//! Behind the answers: weights that were packed from the model's files go to a file beside them, and those that were mapped from there to memory of their own.
//!
//! One thread for each loaded model, of the lowest standing, which begins once the model has answered (or is loaded for a while) and is given up when the model goes. What it
//! does is in [`witness_model::packed`]; nothing waits for it but the end, for a part of some megabytes.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use witness_model::Model;
use witness_model::packed::{self, PackedForm, TakenOver};
use witness_plugin_protocol::PackedFile;
use witness_plugin_sdk::{Level, log};

/// How long to wait for the end of a first answer, which copying would slow down: a model may have been loaded for later, and a long answer gains by the copy.
const FIRST_ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How long the end of a model waits for its thread to leave its work cleanly. A file half-written is known for one, and removed when its time comes.
const LEAVE_WAIT: Duration = Duration::from_millis(500);
/// The lowest standing that a thread can give itself.
const NICENESS_MAX: i32 = 19;

/// Where the packed form of a model is kept, and what was kept the last time.
pub(crate) struct Kept {
    path: PathBuf,
    bytes_max: u64,
    /// What the weights are made of.
    source: String,
    pub(crate) form: Option<PackedForm>,
}

impl Kept {
    /// Looks at what is kept. A file that is of no use is as if there were none; it is written again.
    pub(crate) fn open(place: PackedFile, source: String) -> Kept {
        let name = place
            .stem
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let path = place.stem.with_file_name(packed::file_name(&name));
        let form = match PackedForm::open(&path, &source) {
            Ok(form) => Some(form),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let line = format!(
                        "`{}` is not used, the weights are packed again: {error}",
                        path.display()
                    );
                    log(Level::Info, &line);
                }
                None
            }
        };
        Kept {
            path,
            bytes_max: place.bytes_max,
            source,
            form,
        }
    }
}

/// The thread of one model. Dropping it ends the thread at the next part of its work, and waits a moment for that.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    /// Set by the model's thread when the model goes.
    is_over: AtomicBool,
    /// Set by the model's thread once nobody is waiting for it; the other one waits for that.
    has_answered: Mutex<bool>,
    changed: Condvar,
}

impl Keeper {
    /// Starts the thread, if there is something to do. Without a thread nothing is lost but speed.
    pub(crate) fn start(model: Arc<Model>, kept: Kept) -> Option<Keeper> {
        if kept.form.is_none() && !model.is_mostly_made() {
            return None;
        }
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("packed-form".to_owned());
        let thread = thread.spawn(move || {
            theirs.wait();
            if theirs.goes_on() {
                // On Linux this is the niceness of the thread, elsewhere of the process.
                #[cfg(target_os = "linux")]
                let _ = rustix::process::setpriority_process(None, NICENESS_MAX);
                work(&model, kept, &|| theirs.goes_on());
            }
        });
        match thread {
            Ok(thread) => Some(Keeper { shared, thread }),
            Err(error) => {
                log(Level::Warn, &format!("the packed form is not kept: no thread: {error}"));
                None
            }
        }
    }

    /// Says that the model has answered all who asked.
    pub(crate) fn answered(&self) {
        let mut has_answered = self.shared.has_answered.lock().unwrap_or_else(PoisonError::into_inner);
        if !*has_answered {
            *has_answered = true;
            self.shared.changed.notify_all();
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.answered();
        let until = Instant::now() + LEAVE_WAIT;
        while !self.thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    fn wait(&self) {
        let has_answered = self.has_answered.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .changed
            .wait_timeout_while(has_answered, FIRST_ANSWER_WAIT, |has_answered| !*has_answered);
        drop(waited);
    }
}

fn work(model: &Model, kept: Kept, goes_on: &dyn Fn() -> bool) {
    let Some(form) = kept.form else {
        write(model, &kept, goes_on);
        return;
    };
    touch(&kept.path);
    if let TakenOver::Damaged(name) = packed::take_over(model, &form, goes_on) {
        let _ = std::fs::remove_file(&kept.path);
        log(
            Level::Error,
            &format!(
                "`{}` is damaged: `{name}` is not what was written; it is removed and this worker ends, for what it said is not to be trusted; the next request loads the model from \
                 its own files",
                kept.path.display()
            ),
        );
        // Nothing that was computed with these numbers may go on, and the daemon tells everybody who waits. Whoever asks next gets a new worker.
        std::process::abort();
    }
}

fn write(model: &Model, kept: &Kept, goes_on: &dyn Fn() -> bool) {
    // Another worker of the same model may have been quicker.
    if PackedForm::open(&kept.path, &kept.source).is_ok() {
        return;
    }
    match packed::write(model, &kept.path, &kept.source, kept.bytes_max, goes_on) {
        Ok(true) => log(
            Level::Debug,
            &format!("the packed form is kept in `{}`", kept.path.display()),
        ),
        Ok(false) => {}
        Err(error) => log(
            Level::Warn,
            &format!("the packed form cannot be kept in `{}`: {error}", kept.path.display()),
        ),
    }
}

/// Marks a file as used now: when room is short, those go first that were not for the longest time.
fn touch(path: &Path) {
    // Without it the file goes sooner.
    let _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}
