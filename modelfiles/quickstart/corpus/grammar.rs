//! Texts from rules and tables: a small grammar, drawn at random by seed.
//!
//! A file holds, separated by blank lines, blocks that begin with a head:
//!
//! | head | lines below it |
//! | --- | --- |
//! | `table NAME: column \| column` | a row each, cells separated by ` \| ` |
//! | `rule NAME` | one alternative each |
//! | `topic NAME ROWS [small]` | `q` a question, `v` one that is kept for validation, `a` an answer |
//!
//! Inside a line, `\n` and `\t` are what they say, and `<...>` is replaced: `<rule>` by one of its alternatives, `<table.column>` by a
//! cell (all cells of a table come from one row, and `<table2.column>` from another row), `<name=rule>` as `<rule>`, remembered for
//! `<=name>`, and `<^...>` begins with a capital letter. Lines that begin with `#` are comments.
//!
//! **Invariant:** the same files and the same seed give the same text.

use std::collections::{BTreeMap, HashMap};

/// How deep rules may name rules; more is a rule that names itself.
const DEPTH_MAX: usize = 16;

/// A subject of questions.
#[derive(Clone, Debug)]
pub(crate) struct Topic {
    pub(crate) name: String,
    /// How many different pairs are wanted.
    pub(crate) rows: usize,
    /// Whether the base model learns it too: greetings, and what it is.
    pub(crate) is_small_talk: bool,
    pub(crate) questions: Vec<String>,
    pub(crate) held_out: Vec<String>,
    pub(crate) answers: Vec<String>,
}

#[derive(Clone, Debug)]
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Rules, tables and topics of all files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Grammar {
    rules: HashMap<String, Vec<String>>,
    tables: HashMap<String, Table>,
    pub(crate) topics: Vec<Topic>,
}

impl Grammar {
    /// Adds the blocks of a file.
    ///
    /// # Panics
    /// If the file is not of the form above: it is part of the program.
    pub(crate) fn add(&mut self, text: &str) {
        let lines = text.lines().filter(|line| !line.starts_with("# "));
        let mut block: Vec<&str> = Vec::new();
        for line in lines.chain([""]) {
            match line.is_empty() {
                false => block.push(line),
                true if !block.is_empty() => self.add_block(&std::mem::take(&mut block)),
                true => {}
            }
        }
    }

    fn add_block(&mut self, block: &[&str]) {
        let (head, lines) = block.split_first().expect("a block is not empty");
        let (kind, rest) = head.split_once(' ').expect("a head names what it begins");
        match kind {
            "table" => {
                let (name, columns) = rest.split_once(": ").expect("a table names its columns");
                self.add_table(name, cells(columns), lines.iter().map(|line| cells(line)).collect());
            }
            "rule" => {
                let alternatives = lines.iter().map(|line| (*line).to_owned()).collect();
                let before = self.rules.insert(rest.to_owned(), alternatives);
                assert!(before.is_none(), "rule {rest} is there twice");
            }
            "topic" => self.topics.push(topic(rest, lines)),
            _ => panic!("a block begins with `{head}`"),
        }
    }

    /// Adds a table.
    pub(crate) fn add_table(&mut self, name: &str, columns: Vec<String>, rows: Vec<Vec<String>>) {
        for row in &rows {
            assert_eq!(row.len(), columns.len(), "table {name}: {row:?}");
        }
        let before = self.tables.insert(name.to_owned(), Table { columns, rows });
        assert!(before.is_none(), "table {name} is there twice");
    }

    /// Begins a text: what is drawn stays the same until its end.
    pub(crate) fn scene<'a>(&'a self, random: &'a mut Random) -> Scene<'a> {
        Scene {
            grammar: self,
            random,
            rows: BTreeMap::new(),
            remembered: HashMap::new(),
        }
    }
}

fn cells(line: &str) -> Vec<String> {
    line.split(" | ").map(str::to_owned).collect()
}

fn topic(head: &str, lines: &[&str]) -> Topic {
    let words: Vec<&str> = head.split(' ').collect();
    let mut topic = Topic {
        name: words[0].to_owned(),
        rows: words[1].parse().expect("a topic says how many rows it wants"),
        is_small_talk: words.get(2) == Some(&"small"),
        questions: Vec::new(),
        held_out: Vec::new(),
        answers: Vec::new(),
    };
    for line in lines {
        let (voice, text) = line.split_once(' ').expect("a line begins with its voice");
        let list = match voice {
            "q" => &mut topic.questions,
            "v" => &mut topic.held_out,
            "a" => &mut topic.answers,
            _ => panic!("topic {}: `{line}` is neither q, v nor a", topic.name),
        };
        list.push(text.to_owned());
    }
    topic
}

/// One text in the making.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    grammar: &'a Grammar,
    random: &'a mut Random,
    rows: BTreeMap<String, usize>,
    remembered: HashMap<String, String>,
}

impl Scene<'_> {
    /// Chooses one of some lines.
    pub(crate) fn choose<'l>(&mut self, lines: &'l [String]) -> &'l str {
        &lines[self.random.below(lines.len())]
    }

    /// Replaces everything in angle brackets.
    pub(crate) fn expand(&mut self, line: &str) -> String {
        let text = self.expand_to(line, 0);
        text.replace("\\n", "\n").replace("\\t", "\t")
    }

    fn expand_to(&mut self, line: &str, depth: usize) -> String {
        assert!(depth < DEPTH_MAX, "a rule names itself: {line}");
        let mut out = String::new();
        let mut rest = line;
        while let Some((before, behind)) = rest.split_once('<') {
            let (name, after) = behind.split_once('>').expect("a bracket that opens closes");
            out.push_str(before);
            out.push_str(&self.replacement(name, depth));
            rest = after;
        }
        out + rest
    }

    fn replacement(&mut self, name: &str, depth: usize) -> String {
        if let Some(name) = name.strip_prefix('^') {
            let text = self.replacement(name, depth);
            let mut letters = text.chars();
            return letters.next().map_or(String::new(), |first| {
                first.to_uppercase().collect::<String>() + letters.as_str()
            });
        }
        if let Some(name) = name.strip_prefix('=') {
            let known = self.remembered.get(name);
            return known
                .unwrap_or_else(|| panic!("nothing is remembered as {name}"))
                .clone();
        }
        if let Some((label, rule)) = name.split_once('=') {
            if let Some(known) = self.remembered.get(label) {
                return known.clone();
            }
            let text = self.replacement(rule, depth);
            self.remembered.insert(label.to_owned(), text.clone());
            return text;
        }
        let grammar = self.grammar;
        let line = match name.split_once('.') {
            Some((table, column)) => self.cell(table, column),
            None => {
                let lines = grammar.rules.get(name);
                self.choose(lines.unwrap_or_else(|| panic!("there is no rule {name}")))
            }
        }
        .to_owned();
        self.expand_to(&line, depth + 1)
    }

    fn cell(&mut self, label: &str, column: &str) -> &str {
        let grammar = self.grammar;
        let name = label.trim_end_matches(|letter: char| letter.is_ascii_digit());
        let table = grammar
            .tables
            .get(name)
            .unwrap_or_else(|| panic!("there is no table {name}"));
        let row = match self.rows.get(label) {
            Some(row) => *row,
            None => {
                let taken: Vec<usize> = self
                    .rows
                    .iter()
                    .filter(|(other, _)| other.trim_end_matches(|letter: char| letter.is_ascii_digit()) == name)
                    .map(|(_, row)| *row)
                    .collect();
                let free: Vec<usize> = (0..table.rows.len()).filter(|row| !taken.contains(row)).collect();
                let row = free[self.random.below(free.len())];
                self.rows.insert(label.to_owned(), row);
                row
            }
        };
        let at = table.columns.iter().position(|name| name == column);
        &table.rows[row][at.unwrap_or_else(|| panic!("table {name} has no column {column}"))]
    }
}

/// Random numbers: SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Returns a number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "there is nothing to choose from");
        (self.bits() % n as u64) as usize
    }

    /// Shuffles, as Fisher and Yates do.
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}
