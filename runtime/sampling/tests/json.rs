//! The JSON automaton against serde_json: every prefix of a document is accepted, damaged documents are accepted exactly when they are
//! beginnings or whole documents by the book, and no accepted text leads into a dead end.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use witness_sampling::json::{BLANKS_MAX, DEPTH_MAX, JsonMachine, NUMBER_BYTES_MAX, Root};

struct Random(ChaCha8Rng);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn byte(&mut self, from: &[u8]) -> u8 {
        from[self.below(from.len())]
    }

    fn blank(&mut self, out: &mut String) {
        if self.below(4) == 0 {
            out.push_str(self.pick(&[" ", "\n", "\t", "\r\n", "    "]));
        }
    }

    fn string(&mut self, out: &mut String) {
        const PARTS: [&str; 14] = [
            "a",
            "\\n",
            "\\\"",
            "\\\\",
            "\\/",
            "\\u00e4",
            "\\uD83D\\uDE00",
            "\\u0000",
            "ä",
            "日本",
            "😀",
            "{",
            "]",
            " , ",
        ];
        out.push('"');
        for _ in 0..self.below(5) {
            out.push_str(self.pick(&PARTS));
        }
        out.push('"');
    }

    fn value(&mut self, depth: usize, out: &mut String) {
        match self.below(if depth > 5 { 5 } else { 9 }) {
            0 => out.push_str(self.pick(&["true", "false", "null"])),
            1 => out.push_str(self.pick(&["0", "-0", "12", "-3.25", "1e5", "1E-7", "0.5e+10", "9007199254740993"])),
            2..=4 => self.string(out),
            5 | 6 => self.level(['[', ']'], depth, out, |random, out| random.value(depth + 1, out)),
            _ => self.level(['{', '}'], depth, out, |random, out| {
                random.string(out);
                random.blank(out);
                out.push(':');
                random.blank(out);
                random.value(depth + 1, out);
            }),
        }
    }

    fn level(
        &mut self,
        [open, close]: [char; 2],
        _depth: usize,
        out: &mut String,
        mut item: impl FnMut(&mut Self, &mut String),
    ) {
        out.push(open);
        self.blank(out);
        for i in 0..self.below(4) {
            if i > 0 {
                out.push(',');
                self.blank(out);
            }
            item(self, out);
            self.blank(out);
        }
        out.push(close);
    }
}

fn parses(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_ok()
}

/// serde_json gives up at a number that f64 cannot hold, before it sees whether the rest is JSON.
fn is_out_of_range(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_err_and(|error| error.to_string().contains("out of range"))
}

/// Says whether serde_json stops only because the text ends.
fn is_beginning(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(bytes).is_err_and(|error| error.is_eof())
}

#[test]
fn every_prefix_of_a_document_is_accepted() {
    let mut random = Random(ChaCha8Rng::seed_from_u64(1));
    for _ in 0..5000 {
        let mut text = String::new();
        random.value(0, &mut text);
        assert!(parses(text.as_bytes()), "the generator writes JSON: {text}");
        let mut machine = JsonMachine::new(Root::Any);
        for (i, byte) in text.bytes().enumerate() {
            assert!(machine.accepts(&text.as_bytes()[i..]), "{text} from {i}");
            let before = &text.as_bytes()[..i];
            assert_eq!(machine.is_complete(), i > 0 && parses(before), "{text} to {i}");
            machine.advance(&[byte]).expect("a document");
        }
        assert!(machine.is_complete(), "{text}");
        assert_eq!(
            JsonMachine::new(Root::Object).accepts(text.as_bytes()),
            text.starts_with('{')
        );
    }
}

#[test]
fn damaged_documents_are_judged_as_by_the_book() {
    let mut random = Random(ChaCha8Rng::seed_from_u64(2));
    let (mut n_accepted, mut n_refused) = (0, 0);
    for _ in 0..60_000 {
        let mut text = String::new();
        random.value(0, &mut text);
        let mut bytes = text.into_bytes();
        for _ in 0..=random.below(2) {
            let at = random.below(bytes.len() + 1);
            match random.below(3) {
                0 if at < bytes.len() => bytes[at] = random.byte(b"{}[]:,\"\\u0e-+. ntd\x01\x80\xc3\xed\xf0"),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.byte(b"{}[]:,\"\\u0e-+. 9n\xff")),
            }
        }
        // Blanks around the value are the one thing that we refuse and the book allows.
        let text = bytes.trim_ascii();
        if is_out_of_range(text) {
            continue;
        }
        let accepted = JsonMachine::new(Root::Any).accepts(text);
        let mut machine = JsonMachine::new(Root::Any);
        if parses(text) {
            assert!(accepted, "{:?}", String::from_utf8_lossy(text));
            machine.advance(text).expect("accepted");
            assert!(machine.is_complete());
        } else if accepted {
            machine.advance(text).expect("accepted");
            assert!(
                !machine.is_complete(),
                "{:?} is no document",
                String::from_utf8_lossy(text)
            );
            // serde_json sees a cut character or escape as a fault of its own, not as an end.
            let is_cut_text = text.contains(&b'"');
            assert!(
                is_beginning(text) || is_cut_text || text.is_empty(),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        } else {
            n_refused += 1;
        }
        n_accepted += usize::from(accepted);
    }
    assert!(
        n_accepted > 5000 && n_refused > 5000,
        "{n_accepted} accepted, {n_refused} refused"
    );
}

/// A blind writer that picks any byte that may come, then one that wants to end: the text always can be ended, and is JSON.
#[test]
fn no_accepted_text_is_a_dead_end() {
    let mut random = Random(ChaCha8Rng::seed_from_u64(3));
    for round in 0..3000 {
        let mut machine = JsonMachine::new(if round % 2 == 0 { Root::Any } else { Root::Object });
        let mut text = Vec::new();
        let write = |machine: &mut JsonMachine, text: &mut Vec<u8>, byte: u8| {
            let accepted = machine.advance(&[byte]).is_ok();
            if accepted {
                text.push(byte);
            }
            accepted
        };
        for _ in 0..random.below(120) {
            // Structure more often than chance would write it.
            let byte = if random.below(2) == 0 {
                random.byte(b"{[\",:-0e.\\u ")
            } else {
                random.below(256) as u8
            };
            write(&mut machine, &mut text, byte);
        }
        let mut n_steps = 0;
        while !machine.is_complete() {
            let ended = [
                b'"', b'}', b']', b':', b'0', b'n', b'u', b'l', b'r', b'e', b'a', b's', b'\\', b'd', b'c', 0x80, 0x90,
                0xa0, b'{',
            ]
            .into_iter()
            .any(|byte| write(&mut machine, &mut text, byte));
            n_steps += 1;
            assert!(
                ended && n_steps < 1000,
                "stuck after {:?}",
                String::from_utf8_lossy(&text)
            );
        }
        assert!(
            parses(&text) || is_out_of_range(&text),
            "{:?}",
            String::from_utf8_lossy(&text)
        );
    }
}

#[test]
fn endless_things_end() {
    let accepts = |text: &str| JsonMachine::new(Root::Any).accepts(text.as_bytes());
    let nested = |n: usize| "[".repeat(n);
    assert!(accepts(&nested(usize::from(DEPTH_MAX))));
    assert!(!accepts(&nested(usize::from(DEPTH_MAX) + 1)));
    let blanks = |n: usize| format!("[{}1", " ".repeat(n));
    assert!(accepts(&blanks(usize::from(BLANKS_MAX))));
    assert!(!accepts(&blanks(usize::from(BLANKS_MAX) + 1)));
    assert!(accepts(&"1".repeat(usize::from(NUMBER_BYTES_MAX))));
    assert!(!accepts(&"1".repeat(usize::from(NUMBER_BYTES_MAX) + 1)));
    for refused in [
        " 1",
        "1 ",
        "{} ",
        "\"a\"\"b\"",
        "01",
        "1.e",
        "+1",
        "nul1",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\t\"",
        "[1,]",
        "{,}",
        "{\"a\" 1}",
    ] {
        assert!(!accepts(refused), "{refused:?}");
    }
    let error = JsonMachine::new(Root::Any).advance(b"[1,]").expect_err("refused");
    assert_eq!((error.offset, error.byte), (3, b']'));
    // The state that every candidate token is tried on is small and copied.
    assert!(size_of::<JsonMachine>() <= 48, "{}", size_of::<JsonMachine>());
}
