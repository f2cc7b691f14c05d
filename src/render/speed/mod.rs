//! How fast a model is, as a table and as JSON: what was tested, what was found of ours and of the peer's. Pure.

mod test;

use serde_json::{Value, json};
use witness_api::{Measured, SpeedCase};
use witness_plugin_protocol::ProcessMemory;

use super::table::Table;
use test::Unit;
pub(crate) use test::{LONGEST, Place, Share, Test};

/// Whose a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Peer,
}

/// A test and its numbers, one for each repeat.
struct Row {
    test: Test,
    ours: Vec<f64>,
    peer: Vec<f64>,
}

/// Everything that was found.
pub(crate) struct Found {
    is_race: bool,
    measured: Measured,
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Found {
    pub(crate) fn new(is_race: bool) -> Found {
        Found {
            is_race,
            measured: Measured::default(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds what our engine did. The machine's limits are those that were measured first.
    pub(crate) fn add_engine(&mut self, measured: &Measured) {
        if self.rows.is_empty() {
            self.measured = Measured {
                speed: Vec::new(),
                ..measured.clone()
            };
        }
        for found in &measured.speed {
            for &speed in &found.tokens_per_second {
                self.add(Side::Ours, Test::Engine(found.case), speed);
            }
        }
        if let Some(memory) = &measured.memory {
            let memory = ProcessMemory {
                peak_bytes: memory.peak_bytes,
                anonymous_bytes: memory.anonymous_bytes,
                file_bytes: memory.file_bytes,
            };
            self.add_memory(Side::Ours, Place::Engine, &memory);
        }
        if let Some(adapter) = measured.adapter.as_ref().filter(|_| self.is_race) {
            self.note(format!(
                "llama.cpp runs the base: adapter `{adapter}` counts against witness (`--adapter base` leaves it out)"
            ));
        }
        if self.is_race && measured.speed.iter().any(|found| found.case.parallel > 1) {
            self.note(
                "llama-bench runs one sequence: what ran at once was not raced, but is in our peak memory".to_owned(),
            );
        }
    }

    /// Adds a number.
    pub(crate) fn add(&mut self, side: Side, test: Test, value: f64) {
        let at = self.rows.iter().position(|row| row.test == test).unwrap_or_else(|| {
            self.rows.push(Row {
                test,
                ours: Vec::new(),
                peer: Vec::new(),
            });
            self.rows.len() - 1
        });
        let row = &mut self.rows[at];
        match side {
            Side::Ours => row.ours.push(value),
            Side::Peer => row.peer.push(value),
        }
    }

    /// Adds what a process took.
    pub(crate) fn add_memory(&mut self, side: Side, place: Place, memory: &ProcessMemory) {
        for (share, bytes) in [
            (Share::Peak, memory.peak_bytes),
            (Share::Anonymous, memory.anonymous_bytes),
            (Share::Files, memory.file_bytes),
        ] {
            self.add(side, Test::Memory(place, share), bytes as f64);
        }
    }

    /// Adds something to be said below the table, once.
    pub(crate) fn note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Returns all of it for programs.
    pub(crate) fn as_json(&self) -> Value {
        let rows = self.in_order().map(|row| {
            let mut told = row.test.as_json();
            told["unit"] = json!(row.test.unit().name());
            told["witness"] = json!(row.ours);
            if self.is_race {
                told["peer"] = json!(row.peer);
                told["ratio"] = json!(row.ratio());
            }
            if let Some(ratio) = self.of_base(row) {
                told["ratio_to_base"] = json!(ratio);
            }
            if let Some(share) = self.share(row) {
                told["of_limit"] = json!(share);
            }
            told
        });
        json!({
            "model": self.measured.model,
            "adapter": self.measured.adapter,
            "quantization": self.measured.quantization,
            "size": self.measured.size,
            "weights_bytes": self.measured.weights_bytes,
            "file": self.measured.file,
            "limits": self.measured.limits,
            "rows": rows.collect::<Vec<Value>>(),
            "notes": self.notes,
        })
    }

    fn in_order(&self) -> impl Iterator<Item = &Row> {
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(|row| row.test.rank());
        rows.into_iter()
    }

    /// Returns how fast a batch with adapters is, of the same batch without.
    fn of_base(&self, row: &Row) -> Option<f64> {
        let Test::Engine(case @ SpeedCase { adapters: 1.., .. }) = row.test else {
            return None;
        };
        let without = Test::Engine(SpeedCase { adapters: 0, ..case });
        let without = self.rows.iter().find(|row| row.test == without)?;
        let speed = median(&without.ours);
        (speed > 0.0).then(|| median(&row.ours) / speed)
    }

    /// Returns the share of what the machine could do at most: of reading memory where each token reads all weights, of multiplying where a prompt is read.
    fn share(&self, row: &Row) -> Option<f64> {
        let limits = self.measured.limits.as_ref()?;
        let Test::Engine(case) = row.test else {
            return None;
        };
        if case.parallel > 1 || case.adapters > 0 {
            return None;
        }
        let (done, limit) = match case.generate {
            0 => (2.0 * limits.weights as f64, limits.operations_per_second),
            _ => (self.measured.weights_bytes as f64, limits.read_bytes_per_second),
        };
        (limit > 0.0 && done > 0.0).then(|| done * median(&row.ours) / limit)
    }
}

impl Row {
    /// Returns what stands for all rounds: their median; of the longest times the longest, for a stall that one round in three has is no less of one.
    fn figure(&self, values: &[f64]) -> f64 {
        match self.test {
            Test::BetweenTokens {
                percentile: LONGEST, ..
            } => values.iter().copied().fold(0.0, f64::max),
            _ => median(values),
        }
    }

    /// Returns how many times as good ours is as the peer's, of what stands for all rounds: as fast, or as small.
    fn ratio(&self) -> Option<f64> {
        if self.ours.is_empty() || self.peer.is_empty() {
            return None;
        }
        let (ours, peer) = (self.figure(&self.ours), self.figure(&self.peer));
        let (better, worse) = match self.test.unit() {
            Unit::TokensPerSecond => (ours, peer),
            Unit::Milliseconds | Unit::Bytes => (peer, ours),
        };
        (worse > 0.0).then(|| better / worse)
    }
}

/// Returns the table.
pub(crate) fn table(found: &Found, width: Option<usize>) -> String {
    let mut table = match found.is_race {
        true => Table::new(["TEST", "WITNESS", "SPREAD", "OF LIMIT", "LLAMA.CPP", "SPREAD", "RATIO"]),
        false => Table::new(["TEST", "WITNESS", "SPREAD", "OF LIMIT"]),
    };
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for row in found.in_order() {
        let shown = |values: &[f64]| or_dash((!values.is_empty()).then(|| row.test.unit().show(row.figure(values))));
        let name = row.test.name();
        let (ours, ours_spread) = (shown(&row.ours), or_dash(spread(&row.ours)));
        let share = or_dash(found.share(row).map(|share| format!("{:.0} %", 100.0 * share)));
        if found.is_race {
            let (peer, peer_spread) = (shown(&row.peer), or_dash(spread(&row.peer)));
            // How memory is split says how a program works and not how good it is.
            let is_split = matches!(row.test, Test::Memory(_, Share::Anonymous | Share::Files));
            let ratio = row.ratio().filter(|_| !is_split);
            let ratio = or_dash(ratio.map(|ratio| format!("x {ratio:.2}")));
            table.row([name, ours, ours_spread, share, peer, peer_spread, ratio]);
        } else {
            table.row([name, ours, ours_spread, share]);
        }
    }
    let mut text = table.render(width) + "\n";
    if found.is_race {
        text += "RATIO above x 1: witness is faster, or smaller\n";
    }
    if let Some(limits) = &found.measured.limits {
        text += &format!(
            "{} on {} threads: this machine reads {:.1} GB/s and multiplies at {:.0} GOP/s\n",
            limits.isa,
            limits.threads,
            limits.read_bytes_per_second / 1e9,
            limits.operations_per_second / 1e9
        );
    }
    for row in found.in_order() {
        if let Some(ratio) = found.of_base(row) {
            text += &format!("{}: x {ratio:.2} of the same batch without\n", row.test.name());
        }
    }
    for note in &found.notes {
        text += &format!("{note}\n");
    }
    text
}

/// Returns how far the least and the most are apart, of the median.
fn spread(values: &[f64]) -> Option<String> {
    let (least, most) = values.iter().fold((f64::INFINITY, 0.0f64), |(least, most), &value| {
        (least.min(value), most.max(value))
    });
    let median = median(values);
    (values.len() > 1 && median > 0.0).then(|| format!("{:.0} %", 100.0 * (most - least) / median))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
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
    use witness_api::{SpeedFound, SpeedLimits};

    fn engine(prompt: u64, generate: u64, parallel: u64, speeds: &[f64]) -> SpeedFound {
        SpeedFound {
            case: SpeedCase {
                prompt,
                generate,
                parallel,
                adapters: 0,
            },
            tokens_per_second: speeds.to_vec(),
        }
    }

    fn race() -> Found {
        let measured = Measured {
            model: "one:q4_k_m".to_owned(),
            weights_bytes: 800_000_000,
            speed: vec![
                engine(512, 0, 1, &[260.0, 240.0, 250.0]),
                engine(128, 64, 1, &[40.0, 42.0]),
                engine(4096, 64, 16, &[120.0]),
            ],
            limits: Some(SpeedLimits {
                isa: "avx512vnni".to_owned(),
                threads: 2,
                read_bytes_per_second: 40e9,
                operations_per_second: 800e9,
                weights: 1_000_000_000,
            }),
            ..Measured::default()
        };
        let mut found = Found::new(true);
        found.add_engine(&measured);
        let memory = |peak, own, files| ProcessMemory {
            peak_bytes: peak,
            anonymous_bytes: own,
            file_bytes: files,
        };
        found.add_memory(
            Side::Ours,
            Place::Engine,
            &memory(1_100_000_000, 900_000_000, 3_000_000),
        );
        found.add_memory(
            Side::Peer,
            Place::Engine,
            &memory(1_210_000_000, 200_000_000, 950_000_000),
        );
        for (test, ours, peer) in [
            (
                Test::Engine(engine(512, 0, 1, &[]).case),
                &[][..],
                &[100.0, 102.0, 98.0][..],
            ),
            (Test::Engine(engine(128, 64, 1, &[]).case), &[], &[25.0, 27.0]),
            (
                Test::FirstToken { prompt: 512, seen: 480 },
                &[31.0, 30.0, 32.0],
                &[62.0],
            ),
            (
                Test::Chats {
                    chats: 16,
                    prompt: 128,
                    generate: 64,
                },
                &[119.4],
                &[60.2],
            ),
            (
                Test::BetweenTokens {
                    chats: 16,
                    percentile: 50,
                },
                &[104.0],
                &[208.0],
            ),
            (
                Test::BetweenTokens {
                    chats: 16,
                    percentile: 99,
                },
                &[180.0],
                &[1420.0],
            ),
            (
                Test::BetweenTokens {
                    chats: 16,
                    percentile: LONGEST,
                },
                &[190.0, 250.0, 200.0],
                &[1500.0, 2000.0, 1600.0],
            ),
        ] {
            for &value in ours {
                found.add(Side::Ours, test, value);
            }
            for &value in peer {
                found.add(Side::Peer, test, value);
            }
        }
        found
    }

    #[test]
    fn a_race_is_a_table_of_medians_and_ratios() {
        let told = table(&race(), None);
        insta::assert_snapshot!(told, @r"
        TEST                                WITNESS      SPREAD   OF LIMIT   LLAMA.CPP    SPREAD   RATIO
        read 512                            250 tok/s    8 %      62 %       100 tok/s    4 %      x 2.50
        answer 64 behind 128                41.0 tok/s   5 %      82 %       26.0 tok/s   8 %      x 1.58
        answer 64 behind 4096, 16 at once   120 tok/s    -        -          -            -        -
        first token of 512, 32 new          31.0 ms      6 %      -          62.0 ms      -        x 2.00
        16 chats, 64 behind 128             119 tok/s    -        -          60.2 tok/s   -        x 1.98
          between tokens, p50               104 ms       -        -          208 ms       -        x 2.00
          between tokens, p99               180 ms       -        -          1420 ms      -        x 7.89
          between tokens, max               250 ms       30 %     -          2000 ms      31 %     x 8.00
        peak memory                         1.10 GB      -        -          1.21 GB      -        x 1.10
          its own at the end                900 MB       -        -          200 MB       -        -
          of mapped files at the end        3.00 MB      -        -          950 MB       -        -

        RATIO above x 1: witness is faster, or smaller
        avx512vnni on 2 threads: this machine reads 40.0 GB/s and multiplies at 800 GOP/s
        llama-bench runs one sequence: what ran at once was not raced, but is in our peak memory
        ");
        assert!(told.lines().all(|line| line.chars().count() <= 100), "{told}");
    }

    #[test]
    fn a_ratio_above_one_is_good_whatever_is_measured() {
        let found = race();
        let told = found.as_json();
        let rows = told["rows"].as_array().unwrap();
        let ratio = |test: &str| {
            let row = rows.iter().find(|row| row["test"] == test).unwrap();
            row["ratio"].as_f64().unwrap()
        };
        assert_eq!((ratio("read"), ratio("first_token")), (2.5, 2.0));
        assert_eq!(ratio("peak_memory"), 1.1);
        // Numbers come with their unit and one by one.
        assert_eq!(rows[0]["unit"], "tokens_per_second");
        assert_eq!(rows[0]["witness"], json!([260.0, 240.0, 250.0]));
        assert_eq!(rows[0]["peer"], json!([100.0, 102.0, 98.0]));
    }

    #[test]
    fn adapters_are_held_against_the_same_batch_without() {
        let with = SpeedFound {
            case: SpeedCase {
                adapters: 8,
                ..engine(128, 64, 8, &[]).case
            },
            tokens_per_second: vec![90.0],
        };
        let mut found = Found::new(false);
        found.add_engine(&Measured {
            speed: vec![engine(128, 64, 8, &[100.0]), with],
            ..Measured::default()
        });
        insta::assert_snapshot!(table(&found, None), @r"
        TEST                               WITNESS      SPREAD   OF LIMIT
        answer 64 behind 128, 8 at once    100 tok/s    -        -
        answer 64 behind 128, 8 adapters   90.0 tok/s   -        -

        answer 64 behind 128, 8 adapters: x 0.90 of the same batch without
        ");
        assert_eq!(found.as_json()["rows"][1]["ratio_to_base"], 0.9);
    }
}
