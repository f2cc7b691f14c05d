//! `witness fsck`: every stored byte is hashed again.

use std::process::ExitCode;

use witness_api::{FsckProgress, FsckRequest};
use witness_diagnostics::{Diagnostic, Kind};

use crate::cli::Fsck;
use crate::context::{Context, Outcome};
use crate::render::output;
use crate::render::progress::Bars;

/// Checks the store. The exit code is that of damage when any is left; files that nobody needs are only reported.
pub(crate) fn fsck(context: &Context, arguments: &Fsck) -> Outcome<ExitCode> {
    let client = context.daemon()?;
    let request = FsckRequest {
        repair: arguments.repair,
    };
    let bars = Bars::new();
    let report = context.wait_or_interrupt(async {
        let mut lines = client.stream::<FsckProgress>("/api/witness/fsck", &request).await?;
        let bar = bars.bytes("checking", 0);
        let mut last = None;
        while let Some(line) = lines.next().await? {
            bar.set_length(line.total);
            bar.set_position(line.completed);
            if line.done {
                last = Some(line);
            }
        }
        Ok(last)
    });
    bars.clear();
    let report = match report? {
        None => {
            return Err(Diagnostic::new(
                "witness::cli::interrupted",
                Kind::Cancelled,
                "the check was stopped",
            ));
        }
        Some(None) => {
            return Err(Diagnostic::new(
                "witness::cli::fsck",
                Kind::Internal,
                "the check ended without a report",
            ));
        }
        Some(Some(report)) => report,
    };
    if arguments.json {
        output::json(&report)?;
    } else {
        output::print(&text(&report))?;
    }
    let is_sound = report
        .problems
        .iter()
        .all(|problem| problem.repaired.is_some() || !problem.is_damage);
    Ok(if is_sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(Kind::Damaged.exit_code())
    })
}

fn text(report: &FsckProgress) -> String {
    let mut out = String::new();
    for problem in &report.problems {
        out += &format!("{}: `{}`: {}\n", problem.problem, problem.object, problem.message);
        if !problem.models.is_empty() {
            out += &format!("  models: {}\n", problem.models.join(", "));
        }
        if let Some(repaired) = &problem.repaired {
            out += &format!("  repaired: {repaired}\n");
        }
    }
    let open = report
        .problems
        .iter()
        .filter(|problem| problem.repaired.is_none())
        .count();
    out += &format!("checked {} models, {} blobs: ", report.models, report.blobs);
    out += &match (report.problems.len(), open) {
        (0, _) => "all sound\n".to_owned(),
        (found, 0) => format!("{found} problems, all repaired\n"),
        (found, open) => format!("{found} problems, {open} left\n"),
    };
    if open > 0 {
        out += "`witness fsck --repair` sets damaged files aside; then create the models named above again\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use witness_api::FsckProblem;

    #[test]
    fn a_problem_names_its_object_and_its_models() {
        let report = FsckProgress {
            blobs: 9,
            models: 3,
            done: true,
            problems: vec![FsckProblem {
                problem: "damaged_blob".into(),
                object: "sha256:9f2c".into(),
                models: vec!["quick:latest".into()],
                message: "the content has another digest".into(),
                is_damage: true,
                ..FsckProblem::default()
            }],
            ..FsckProgress::default()
        };
        insta::assert_snapshot!(text(&report), @r"
        damaged_blob: `sha256:9f2c`: the content has another digest
          models: quick:latest
        checked 3 models, 9 blobs: 1 problems, 1 left
        `witness fsck --repair` sets damaged files aside; then create the models named above again
        ");
    }
}
