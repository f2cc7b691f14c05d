//! How many tokens each sequence feeds in a step.

/// What a running sequence has not fed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Tokens.
    pub n_tokens: usize,
    /// They belong to the prompt; else to the answer, which somebody is waiting to read on.
    pub is_prompt: bool,
}

/// Returns how many tokens each sequence feeds: answers all that they have, prompts `budget` tokens together, in equal shares as far as each has that many.
///
/// So a step takes about as long as one of `budget` tokens whatever the prompts' lengths, running answers wait no longer than that, and a short prompt is read while a
/// long one is. Where there are more prompts than tokens the first ones get one each.
pub fn shares(pending: &[Pending], budget: usize) -> Vec<usize> {
    let mut shares: Vec<usize> = pending
        .iter()
        .map(|pending| if pending.is_prompt { 0 } else { pending.n_tokens })
        .collect();
    let mut hungry: Vec<usize> = (0..pending.len()).filter(|&index| pending[index].is_prompt).collect();
    let mut left = budget;
    // Each round satisfies somebody or hands out all that is left.
    while left > 0 && !hungry.is_empty() {
        let each = (left / hungry.len()).max(1);
        hungry.retain(|&index| {
            let given = each.min(pending[index].n_tokens - shares[index]).min(left);
            shares[index] += given;
            left -= given;
            shares[index] < pending[index].n_tokens
        });
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lengths: &[(usize, bool)], budget: usize) -> Vec<usize> {
        let pending: Vec<Pending> = lengths
            .iter()
            .map(|&(n_tokens, is_prompt)| Pending { n_tokens, is_prompt })
            .collect();
        shares(&pending, budget)
    }

    #[test]
    fn prompts_share_what_there_is() {
        assert_eq!(of(&[(1000, true)], 256), [256]);
        assert_eq!(of(&[(1000, true), (1000, true)], 256), [128, 128]);
        // What a short one leaves goes to the others.
        assert_eq!(of(&[(1000, true), (10, true), (1000, true)], 256), [123, 10, 123]);
        assert_eq!(of(&[(10, true), (20, true)], 256), [10, 20]);
        assert_eq!(of(&[(5, true), (5, true), (5, true)], 2), [1, 1, 0]);
        assert_eq!(of(&[], 256), [0; 0]);
    }

    #[test]
    fn answers_never_wait() {
        assert_eq!(of(&[(1, false), (1000, true), (5, false)], 64), [1, 64, 5]);
        assert_eq!(of(&[(1, false), (1000, true)], 0), [1, 0]);
    }

    // Whatever the lengths, the budget is kept, and used as far as there are tokens.
    #[test]
    fn the_budget_is_kept_and_used() {
        let mut state = 1u64;
        for _ in 0..2_000 {
            let mut next = |n: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % n
            };
            let n = next(9);
            let lengths: Vec<(usize, bool)> = (0..n).map(|_| (next(70) as usize, true)).collect();
            let budget = next(200) as usize;
            let found = of(&lengths, budget);
            let wanted: usize = lengths.iter().map(|(n_tokens, _)| n_tokens).sum();
            assert_eq!(found.iter().sum::<usize>(), wanted.min(budget), "{lengths:?} {budget}");
            assert!(
                found
                    .iter()
                    .zip(&lengths)
                    .all(|(share, (n_tokens, _))| share <= n_tokens)
            );
        }
    }
}
