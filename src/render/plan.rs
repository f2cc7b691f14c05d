//! What a model would become, tensor by tensor. Pure.

use std::collections::BTreeMap;

use witness_api::{PlannedTensor, TransformPlan};

use super::quantity::size;
use super::table::{Table, one_line};

/// Returns the table of the tensors and what they add up to.
pub(crate) fn text(plan: &TransformPlan, name: &str, width: Option<usize>) -> String {
    let mut table = Table::new(["TENSOR", "SHAPE", "FROM", "TO", "SIZE"]);
    for tensor in &plan.tensors {
        table.row([
            tensor.name.clone(),
            format!("{:?}", tensor.shape),
            tensor.from.clone(),
            tensor.to.clone(),
            size(tensor.bytes),
        ]);
    }
    let line = |text: String| format!("{}\n", one_line(&text));
    let mut out = table.render(width);
    out.push('\n');
    out += &line(format!(
        "`{name}` would have {} tensors: {}",
        plan.tensors.len(),
        by_type(&plan.tensors)
    ));
    out += &line(format!(
        "{}, {} -> {}, {}: {:.2} bits a weight",
        plan.from,
        size(plan.source_bytes),
        plan.to,
        size(plan.target_bytes),
        plan.bits_per_weight
    ));
    out + &line(format!("the work takes up to {} of memory", size(plan.memory_bytes)))
}

/// Sums the tensors by their type then, the largest sum first.
fn by_type(tensors: &[PlannedTensor]) -> String {
    let mut sums: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for tensor in tensors {
        let sum = sums.entry(&tensor.to).or_default();
        *sum = (sum.0 + 1, sum.1.saturating_add(tensor.bytes));
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, (_, bytes))| std::cmp::Reverse(*bytes));
    let told = sums
        .iter()
        .map(|(name, (count, bytes))| format!("{count} {name} ({})", size(*bytes)));
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_table_and_its_sums() {
        let tensor = |name: &str, shape: &[u64], to: &str, bytes| PlannedTensor {
            name: name.into(),
            shape: shape.to_vec(),
            from: "BF16".into(),
            to: to.into(),
            bytes,
        };
        let plan = TransformPlan {
            architecture: "llama".into(),
            from: "BF16".into(),
            to: "Q4_K_M".into(),
            source_bytes: 1_100_000,
            target_bytes: 345_000,
            bits_per_weight: 4.846,
            memory_bytes: 12_000_000,
            tensors: vec![
                tensor("token_embd.weight", &[1024, 256], "Q6_K", 215_040),
                tensor("blk.0.attn_norm.weight", &[256], "F32", 1024),
                tensor("blk.0.attn_q.weight", &[256, 256], "Q4_K", 36_864),
                tensor("blk.0.attn_v.weight", &[256, 256], "Q6_K", 53_760),
            ],
            warnings: Vec::new(),
        };
        insta::assert_snapshot!(text(&plan, "llama:q4_k_m", None), @r"
        TENSOR                   SHAPE         FROM   TO     SIZE
        token_embd.weight        [1024, 256]   BF16   Q6_K   215 kB
        blk.0.attn_norm.weight   [256]         BF16   F32    1.0 kB
        blk.0.attn_q.weight      [256, 256]    BF16   Q4_K   37 kB
        blk.0.attn_v.weight      [256, 256]    BF16   Q6_K   54 kB

        `llama:q4_k_m` would have 4 tensors: 2 Q6_K (269 kB), 1 Q4_K (37 kB), 1 F32 (1.0 kB)
        BF16, 1.1 MB -> Q4_K_M, 345 kB: 4.85 bits a weight
        the work takes up to 12 MB of memory
        ");
    }
}
