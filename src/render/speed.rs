//! How fast a model is, as a table. Pure.

use serde_json::{Value, json};
use witness_api::{Measured, SpeedCase, SpeedFound, SpeedLimits};

use super::table::Table;

/// A case: what was found of ours and, where it ran, of the peer.
pub(crate) struct Row {
    pub(crate) case: SpeedCase,
    pub(crate) ours: Vec<f64>,
    pub(crate) peer: Vec<f64>,
    weights_bytes: u64,
    limits: Option<SpeedLimits>,
}

impl Row {
    /// Returns the rows of a measurement.
    pub(crate) fn of(measured: &Measured) -> Vec<Row> {
        let row = |found: &SpeedFound| Row {
            case: found.case,
            ours: self::found(found).to_vec(),
            peer: Vec::new(),
            weights_bytes: measured.weights_bytes,
            limits: measured.limits.clone(),
        };
        measured.speed.iter().map(row).collect()
    }

    /// Returns the rows of a race for programs.
    pub(crate) fn as_json(rows: &[Row]) -> Value {
        let row = |row: &Row| match row.case.seen {
            Some(_) => json!({ "case": row.case, "first_token_ms": row.ours }),
            None => json!({ "case": row.case, "tokens_per_second": row.ours, "peer_tokens_per_second": row.peer,
                "ratio": ratio(row) }),
        };
        rows.iter().map(row).collect()
    }

    fn name(&self) -> String {
        let case = &self.case;
        if let Some(seen) = case.seen {
            return match seen {
                0 => format!("first token of {}, all new", case.prompt),
                seen if seen == case.prompt => format!("first token of {seen}, seen before"),
                seen => format!("first token of {}, {} new", case.prompt, case.prompt - seen),
            };
        }
        match (case.generate, case.parallel) {
            (0, _) => format!("read {}", case.prompt),
            (generate, 0 | 1) => format!("answer {generate} behind {}", case.prompt),
            (generate, parallel) => format!("answer {generate} behind {}, {parallel} at once", case.prompt),
        }
    }

    /// Returns the share of what the machine could do at most: of reading memory where each token reads all weights, of multiplying where a prompt is read.
    fn share(&self) -> Option<f64> {
        let limits = self.limits.as_ref()?;
        if self.case.seen.is_some() || self.case.parallel > 1 {
            return None;
        }
        let (done, limit) = match self.case.generate {
            0 => (
                2.0 * limits.weights as f64 * median(&self.ours),
                limits.operations_per_second,
            ),
            _ => (self.weights_per_second()?, limits.read_bytes_per_second),
        };
        (limit > 0.0).then(|| done / limit)
    }

    /// Returns the bytes of weights that are read a second, where each token reads all of them.
    fn weights_per_second(&self) -> Option<f64> {
        (self.case.generate > 0 && self.case.parallel <= 1 && self.case.seen.is_none() && self.weights_bytes > 0)
            .then(|| median(&self.ours) * self.weights_bytes as f64)
    }
}

/// Returns the numbers of a case: tokens a second, or the milliseconds to the first.
pub(crate) fn found(found: &SpeedFound) -> &[f64] {
    match found.case.seen {
        Some(_) => &found.first_token_ms,
        None => &found.tokens_per_second,
    }
}

/// Returns the table.
pub(crate) fn table(rows: &[Row], width: Option<usize>) -> String {
    let has_peer = rows.iter().any(|row| !row.peer.is_empty());
    let mut table = match has_peer {
        true => Table::new(["TEST", "TOKENS/S", "SPREAD", "WEIGHTS", "OF LIMIT", "PEER", "RATIO"]),
        false => Table::new(["TEST", "TOKENS/S", "SPREAD", "WEIGHTS", "OF LIMIT"]),
    };
    for row in rows {
        let weights = row.weights_per_second();
        let weights = weights.map_or_else(|| "-".to_owned(), |bytes| format!("{:.1} GB/s", bytes / 1e9));
        let ours = match row.case.seen {
            Some(_) => format!("{} ms", number(median(&row.ours))),
            None => number(median(&row.ours)),
        };
        let share = row
            .share()
            .map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", 100.0 * share));
        let (name, spread) = (row.name(), spread(&row.ours));
        if has_peer {
            let peer = match row.peer.is_empty() {
                true => "-".to_owned(),
                false => number(median(&row.peer)),
            };
            let ratio = ratio(row).map_or_else(|| "-".to_owned(), |ratio| format!("x {ratio:.2}"));
            table.row([name, ours, spread, weights, share, peer, ratio]);
        } else {
            table.row([name, ours, spread, weights, share]);
        }
    }
    let mut text = table.render(width);
    if let Some(limits) = rows.first().and_then(|row| row.limits.as_ref()) {
        text += &format!(
            "\n{} on {} threads: this machine reads {:.1} GB/s and multiplies at {:.0} GOP/s\n",
            limits.isa,
            limits.threads,
            limits.read_bytes_per_second / 1e9,
            limits.operations_per_second / 1e9
        );
    }
    text
}

/// Returns ours over the peer's, of the medians.
fn ratio(row: &Row) -> Option<f64> {
    (!row.peer.is_empty() && !row.ours.is_empty()).then(|| median(&row.ours) / median(&row.peer))
}

fn number(speed: f64) -> String {
    match speed {
        speed if speed < 100.0 => format!("{speed:.1}"),
        speed => format!("{speed:.0}"),
    }
}

/// Returns how far the slowest and the fastest are apart, of the median.
fn spread(speeds: &[f64]) -> String {
    let (least, most) = speeds.iter().fold((f64::INFINITY, 0.0f64), |(least, most), &speed| {
        (least.min(speed), most.max(speed))
    });
    match speeds.len() {
        0 | 1 => "-".to_owned(),
        _ => format!("{:.0} %", 100.0 * (most - least) / median(speeds)),
    }
}

fn median(speeds: &[f64]) -> f64 {
    let mut sorted = speeds.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_race_is_a_table_of_medians_and_ratios() {
        let row = |prompt, generate, parallel, ours: &[f64], peer: &[f64]| Row {
            case: SpeedCase {
                prompt,
                generate,
                parallel,
                seen: None,
            },
            ours: ours.to_vec(),
            peer: peer.to_vec(),
            weights_bytes: 800_000_000,
            limits: Some(SpeedLimits {
                isa: "avx512vnni".to_owned(),
                threads: 2,
                read_bytes_per_second: 40e9,
                operations_per_second: 800e9,
                weights: 1_000_000_000,
            }),
        };
        let mut seen = row(512, 1, 1, &[31.0, 30.0, 32.0], &[]);
        seen.case.seen = Some(480);
        let rows = [
            row(512, 0, 1, &[260.0, 240.0, 250.0], &[100.0, 102.0, 98.0]),
            row(128, 64, 1, &[40.0, 42.0], &[25.0, 27.0]),
            row(128, 64, 8, &[120.0], &[]),
            seen,
        ];
        insta::assert_snapshot!(table(&rows, None), @r"
        TEST                              TOKENS/S   SPREAD   WEIGHTS     OF LIMIT   PEER   RATIO
        read 512                          250        8 %      -           62 %       100    x 2.50
        answer 64 behind 128              41.0       5 %      32.8 GB/s   82 %       26.0   x 1.58
        answer 64 behind 128, 8 at once   120        -        -           -          -      -
        first token of 512, 32 new        31.0 ms    6 %      -           -          -      -

        avx512vnni on 2 threads: this machine reads 40.0 GB/s and multiplies at 800 GOP/s
        ");
    }
}
