//! `witness data preview`: rows as a model is taught them, what is learned told from what is only read.

use serde_json::json;
use std::io::IsTerminal;

use witness_plugin_protocol::PreviewRow;

use crate::cli::{DataPreview, WithModel};
use crate::commands::train::{Order, rows_in};
use crate::context::{Context, Outcome};
use crate::render::output;

/// What is only read: dim.
const READ: &str = "\x1b[2m";
/// What is learned: bold.
const LEARNED: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Shows rows.
pub(crate) fn preview(context: &Context, arguments: &DataPreview) -> Outcome {
    let WithModel { model, recipe, set } = &arguments.with;
    let mut order = Order::of_rows(&arguments.files, model, recipe.as_deref(), set)?;
    let rows = arguments.row.iter().map(|row| row - 1).collect();
    let plan = rows_in(context, &mut order, rows)?;
    if arguments.json {
        return output::json(&json!({ "rows": plan.preview, "warnings": plan.warnings }));
    }
    let is_coloured = std::io::stdout().is_terminal() && output::is_colour_wanted();
    let shown: Vec<String> = plan.preview.iter().map(|row| text(row, is_coloured)).collect();
    output::print(&shown.join("\n"))?;
    for row in arguments
        .row
        .iter()
        .filter(|row| !plan.preview.iter().any(|shown| shown.row + 1 == **row))
    {
        output::note(&format!("there is no row {row}"));
    }
    Ok(())
}

fn text(row: &PreviewRow, is_coloured: bool) -> String {
    let n_learned: usize = row
        .pieces
        .iter()
        .filter(|piece| piece.is_target)
        .map(|piece| piece.ids.len())
        .sum();
    let mut text = format!(
        "row {} ({}): {} tokens, {n_learned} of them learned\n",
        row.row + 1,
        row.place,
        row.n_tokens
    );
    if let Some(why) = &row.left_out {
        text += &format!("left out: {why}\n");
    }
    match is_coloured {
        true => text + &coloured(row),
        false => text + &marked(row),
    }
}

fn coloured(row: &PreviewRow) -> String {
    let mut text = String::new();
    for piece in &row.pieces {
        let ink = if piece.is_target { LEARNED } else { READ };
        // A row may hold escapes of its own, which must not reach the terminal.
        let safe: String = piece
            .text
            .chars()
            .filter(|c| *c == '\n' || *c == '\t' || !c.is_control())
            .collect();
        text += &format!("{ink}{safe}{PLAIN}");
    }
    text + "\n"
}

/// Every line begins with `>` for what is learned and `|` for the rest. A piece that ends within a line ends the line.
fn marked(row: &PreviewRow) -> String {
    let mut text = String::new();
    for piece in &row.pieces {
        let mark = if piece.is_target { '>' } else { '|' };
        let body = piece.text.strip_suffix('\n').unwrap_or(&piece.text);
        for line in body.split('\n') {
            let safe: String = line.chars().filter(|c| *c == '\t' || !c.is_control()).collect();
            text += format!("{mark} {safe}").trim_end();
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use witness_plugin_protocol::PreviewPiece;

    #[test]
    fn what_is_learned_is_told_with_and_without_colour() {
        let piece = |text: &str, is_target| PreviewPiece {
            text: text.to_owned(),
            ids: vec![1, 2],
            is_target,
        };
        let row = PreviewRow {
            row: 0,
            place: "a.jsonl:1".into(),
            pieces: vec![
                piece("<|user|>\nhi\x1b[31m\n<|assistant|>\n", false),
                piece("ho\nhum<|end|>", true),
                piece("\n", false),
            ],
            n_tokens: 6,
            left_out: None,
        };
        insta::assert_snapshot!(text(&row, false), @r"
        row 1 (a.jsonl:1): 6 tokens, 2 of them learned
        | <|user|>
        | hi[31m
        | <|assistant|>
        > ho
        > hum<|end|>
        |
        ");
        let shown = text(&row, true);
        assert!(
            shown.contains("\x1b[1mho\nhum<|end|>\x1b[0m") && !shown.contains("\x1b[31m"),
            "{shown:?}"
        );
    }
}
