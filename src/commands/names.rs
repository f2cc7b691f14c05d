//! Names for models that are made of others, where none is given. Pure.

/// Returns the name with an ending: `llama:8b` and `-merged` give `llama-merged:8b`, for a tag comes last.
pub(crate) fn with_ending(name: &str, ending: &str) -> String {
    match tag(name) {
        Some((name, tag)) => format!("{name}{ending}:{tag}"),
        None => format!("{name}{ending}"),
    }
}

/// Returns the name with a type in its tag: `llama` gives `llama:q4_k_m`, and `llama:8b` gives `llama:8b-q4_k_m`.
pub(crate) fn with_type(name: &str, quantization: &str) -> String {
    let quantization = quantization.to_ascii_lowercase();
    match tag(name) {
        Some((name, "latest")) => format!("{name}:{quantization}"),
        Some((name, tag)) => format!("{name}:{tag}-{quantization}"),
        None => format!("{name}:{quantization}"),
    }
}

/// Splits the tag off. A colon before a slash belongs to a host's port.
fn tag(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_comes_last() {
        for (name, merged, quantized) in [
            ("llama", "llama-merged", "llama:q4_k_m"),
            ("llama:latest", "llama-merged:latest", "llama:q4_k_m"),
            ("llama3.1:8b", "llama3.1-merged:8b", "llama3.1:8b-q4_k_m"),
            (
                "host:5000/me/llama",
                "host:5000/me/llama-merged",
                "host:5000/me/llama:q4_k_m",
            ),
        ] {
            assert_eq!(with_ending(name, "-merged"), merged);
            assert_eq!(with_type(name, "Q4_K_M"), quantized);
        }
    }
}
