//! Progress bars and spinners on standard error; nothing at all when that is no terminal, except one line per step.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner turns.
const TICK: Duration = Duration::from_millis(80);

/// The bars of one command.
pub(crate) struct Bars {
    bars: MultiProgress,
    is_terminal: bool,
}

impl Bars {
    /// Returns bars for standard error.
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            bars: MultiProgress::with_draw_target(target),
            is_terminal,
        }
    }

    /// Adds a bar that counts bytes.
    pub(crate) fn bytes(&self, label: &str, total_bytes: u64) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new(total_bytes));
        let template = "{msg:<33!} {bar:20} {bytes:>10}/{total_bytes:<10} {bytes_per_sec:>12} {eta:>4}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("█▌ "));
        }
        bar.set_message(super::table::one_line(label));
        bar
    }

    /// Says which step has begun: a spinner on a terminal, a line elsewhere.
    pub(crate) fn step(&self, label: &str) -> ProgressBar {
        if !self.is_terminal {
            super::output::note(&super::table::one_line(label));
        }
        let bar = self.bars.add(ProgressBar::new_spinner());
        bar.set_message(super::table::one_line(label));
        bar.enable_steady_tick(TICK);
        bar
    }

    /// Adds a bar that counts steps; its message says how they go.
    pub(crate) fn steps(&self, n_steps: u64) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new(n_steps));
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {pos}/{len} {eta:>4}  {wide_msg}") {
            bar.set_style(style.progress_chars("█▌ "));
        }
        bar
    }

    /// Writes lines above what is drawn.
    pub(crate) fn say(&self, text: &str) {
        if !self.is_terminal || self.bars.println(text).is_err() {
            super::output::note(text);
        }
    }

    /// Returns whether anything is drawn at all.
    pub(crate) fn is_drawn(&self) -> bool {
        self.is_terminal
    }

    /// Removes everything that is still drawn.
    pub(crate) fn clear(&self) {
        let _ = self.bars.clear();
    }
}

/// Lines of progress that the daemon sends, drawn as they come: a bar for a step that counts bytes, a spinner for one that does not. Warnings stay.
pub(crate) struct Told<'a> {
    bars: &'a Bars,
    step: Option<Step>,
}

struct Step {
    status: String,
    bar: ProgressBar,
    counts_bytes: bool,
}

impl<'a> Told<'a> {
    /// Returns a drawing of nothing yet.
    pub(crate) fn new(bars: &'a Bars) -> Self {
        Self { bars, step: None }
    }

    /// Draws one line.
    pub(crate) fn line(&mut self, status: &str, completed_bytes: u64, total_bytes: u64) {
        if status.is_empty() {
            return;
        }
        if let Some(warning) = status.strip_prefix("warning: ") {
            self.bars.say(&format!("warning: {}", super::table::one_line(warning)));
            return;
        }
        if self.step.as_ref().is_none_or(|step| step.status != status) {
            if let Some(step) = self.step.take() {
                step.bar.finish();
            }
            // Which layers were new is for the log; a person wants to know the step.
            if status == "success" || status.contains(" layer ") {
                return;
            }
            self.step = Some(Step {
                status: status.to_owned(),
                bar: self.bars.step(status),
                counts_bytes: false,
            });
        }
        let Some(step) = self.step.as_mut().filter(|_| total_bytes > 0) else {
            return;
        };
        if !step.counts_bytes {
            step.bar.finish_and_clear();
            step.bar = self.bars.bytes(status, total_bytes);
            step.counts_bytes = true;
        }
        step.bar.set_position(completed_bytes);
    }
}

/// A spinner that shows that something is being waited for; it is gone when dropped.
pub(crate) struct Spinner(Option<ProgressBar>);

impl Spinner {
    /// Starts turning, if standard error is a terminal.
    pub(crate) fn start(label: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner();
        bar.set_message(label.to_owned());
        bar.enable_steady_tick(TICK);
        Self(Some(bar))
    }

    /// Takes it away.
    pub(crate) fn stop(&mut self) {
        if let Some(bar) = self.0.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.stop();
    }
}
