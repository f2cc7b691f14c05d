//! What was measured, as tables. Pure.

use witness_api::Measured;

use super::quantity::size;
use super::table::{Table, one_line};

/// Returns the table of models, each by itself or against the first.
pub(crate) fn table(results: &[Measured], width: Option<usize>) -> String {
    let is_compared = results.iter().any(|measured| measured.divergence.is_some());
    match is_compared {
        true => compared(results, width),
        false => alone(results, width),
    }
}

/// Returns what the numbers rest on.
pub(crate) fn basis(results: &[Measured], text: &str) -> String {
    let Some(first) = results.first() else {
        return String::new();
    };
    let tokens = match first.scored {
        0 => String::new(),
        scored => format!(", {scored} tokens scored"),
    };
    let pieces = if first.chunks == 1 { "piece" } else { "pieces" };
    let speed = first.tokens_per_second;
    one_line(&format!(
        "`{text}`: {} {pieces}{tokens}, {speed:.0} tokens/s",
        first.chunks
    ))
}

fn alone(results: &[Measured], width: Option<usize>) -> String {
    let mut table = Table::new(["MODEL", "ADAPTER", "TYPE", "SIZE", "PERPLEXITY"]);
    for measured in results {
        table.row([
            measured.model.clone(),
            measured.adapter.clone().unwrap_or_else(|| "-".to_owned()),
            measured.quantization.clone(),
            size(measured.size),
            perplexity(measured),
        ]);
    }
    table.render(width)
}

fn compared(results: &[Measured], width: Option<usize>) -> String {
    let mut table = Table::new([
        "MODEL",
        "TYPE",
        "SIZE",
        "PERPLEXITY",
        "RATIO",
        "KL",
        "KL 99 %",
        "SAME TOP",
    ]);
    for measured in results {
        let [ratio, mean, p99, top] = distance(measured);
        let name = match &measured.adapter {
            Some(adapter) => format!("{} + {adapter}", measured.model),
            None => measured.model.clone(),
        };
        table.row([
            name,
            measured.quantization.clone(),
            size(measured.size),
            perplexity(measured),
            ratio,
            mean,
            p99,
            top,
        ]);
    }
    table.render(width)
}

/// Returns the table of a suggestion: types, the nearest first, and the model itself at the end.
pub(crate) fn suggestion(results: &[Measured], width: Option<usize>) -> String {
    let mut table = Table::new([
        "TYPE",
        "SIZE",
        "MEMORY",
        "PERPLEXITY",
        "RATIO",
        "KL",
        "KL 99 %",
        "SAME TOP",
    ]);
    for measured in results {
        let [ratio, mean, p99, top] = distance(measured);
        table.row([
            measured.quantization.clone(),
            size(measured.size),
            size(measured.memory_bytes),
            perplexity(measured),
            ratio,
            mean,
            p99,
            top,
        ]);
    }
    table.render(width)
}

fn perplexity(measured: &Measured) -> String {
    format!("{:.4} ± {:.4}", measured.perplexity, measured.perplexity_error)
}

fn distance(measured: &Measured) -> [String; 4] {
    match &measured.divergence {
        None => ["-", "-", "-", "-"].map(str::to_owned),
        Some(found) => [
            format!("{:.4} ± {:.4}", found.perplexity_ratio, found.perplexity_ratio_error),
            format!("{:.5} ± {:.5}", found.mean, found.error),
            format!("{:.4}", found.p99),
            format!("{:.2} %", 100.0 * found.top_agreement),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use witness_api::Divergence;

    fn measured(model: &str, kind: &str, bytes: u64, perplexity: f64, mean: Option<f64>) -> Measured {
        Measured {
            model: model.into(),
            quantization: kind.into(),
            size: bytes,
            memory_bytes: bytes * 2,
            chunks: 4,
            scored: 1020,
            perplexity,
            perplexity_error: 0.05,
            tokens_per_second: 81.4,
            divergence: mean.map(|mean| Divergence {
                mean,
                error: mean / 50.0,
                p99: mean * 8.0,
                top_agreement: 0.9731,
                perplexity_ratio: 1.0123,
                perplexity_ratio_error: 0.0011,
                ..Divergence::default()
            }),
            ..Measured::default()
        }
    }

    #[test]
    fn models_are_shown_with_their_sizes() {
        let results = [measured("llama", "BF16", 2_470_000_000, 7.1234, None)];
        insta::assert_snapshot!(table(&results, None), @r"
        MODEL   ADAPTER   TYPE   SIZE     PERPLEXITY
        llama   -         BF16   2.5 GB   7.1234 ± 0.0500
        ");
        assert_eq!(
            basis(&results, "chats.txt"),
            "`chats.txt`: 4 pieces, 1020 tokens scored, 81 tokens/s"
        );
        let results = [
            measured("llama", "BF16", 2_470_000_000, 7.1234, None),
            measured("llama:q4_k_m", "Q4_K_M", 808_000_000, 7.2110, Some(0.0123)),
        ];
        insta::assert_snapshot!(table(&results, None), @r"
        MODEL          TYPE     SIZE     PERPLEXITY        RATIO             KL                  KL 99 %   SAME TOP
        llama          BF16     2.5 GB   7.1234 ± 0.0500   -                 -                   -         -
        llama:q4_k_m   Q4_K_M   808 MB   7.2110 ± 0.0500   1.0123 ± 0.0011   0.01230 ± 0.00025   0.0984    97.31 %
        ");
    }
}
