//! What can go wrong between logits and a token. Every case is typed, because the caller says different things about each.

/// Why no token could be chosen.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplingError {
    /// The model's output is not a number: its weights or the arithmetic are broken, and any token would be a guess.
    #[error("the logit of token {token} is {value}, which is not a finite number")]
    NotFinite {
        /// The first such token.
        token: u32,
        /// NaN or positive infinity. Negative infinity is a legal logit and means "impossible".
        value: f32,
    },
    /// There is nothing to choose from: the logits are empty or all negative infinity.
    #[error("none of the {n_logits} logits is larger than negative infinity, so no token can be chosen")]
    NoCandidate {
        /// How many logits there were.
        n_logits: usize,
    },
    /// The constraint refuses every token that the model considers possible.
    #[error("the output constraint refuses each of the {n_tested} tokens that the model can produce here")]
    NothingAllowed {
        /// How many tokens were tested.
        n_tested: usize,
    },
    /// A token id beyond the vocabulary was asked about.
    #[error("token {token} is outside the vocabulary of {n_logits} tokens")]
    UnknownToken {
        /// The id.
        token: u32,
        /// The size of the vocabulary.
        n_logits: usize,
    },
    /// An option has a value that no stage can work with.
    #[error("`{name}` is {value}; it must be {wanted}")]
    Option {
        /// The option's name.
        name: &'static str,
        /// The value seen.
        value: f32,
        /// What would be accepted.
        wanted: &'static str,
    },
    /// More stop texts than [`crate::stops::STOPS_MAX`], or a longer one than [`crate::stops::STOP_BYTES_MAX`].
    #[error("{what} is {value}; at most {limit} are accepted")]
    StopLimit {
        /// What is too much.
        what: &'static str,
        /// The value seen.
        value: usize,
        /// The limit.
        limit: usize,
    },
}
