//! Two cyclic redundancy checks of 32 bits: the one of zip (IEEE 802.3), and Castagnoli's with TensorFlow's mask.
//!
//! Both are reflected, begin with all ones and end inverted. One look-up in a table of 256 a byte, which is plenty for records of some hundred bytes.

/// The polynomial of zip, reflected.
const IEEE: [u32; 256] = table(0xedb8_8320);
/// Castagnoli's polynomial, reflected.
const CASTAGNOLI: [u32; 256] = table(0x82f6_3b78);

/// Returns zip's check of some parts after one another.
pub(crate) fn crc32(parts: &[&[u8]]) -> u32 {
    check(&IEEE, parts)
}

/// Returns Castagnoli's check, masked as TensorFlow does it so that the check of data that holds checks is no special case.
pub(crate) fn masked_crc32c(bytes: &[u8]) -> u32 {
    check(&CASTAGNOLI, &[bytes]).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn check(table: &[u32; 256], parts: &[&[u8]]) -> u32 {
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(!0, |state: u32, byte| {
        table[usize::from(state as u8 ^ byte)] ^ (state >> 8)
    })
}

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut state, mut bit) = (byte as u32, 0);
        while bit < 8 {
            state = if state & 1 == 1 {
                state >> 1 ^ polynomial
            } else {
                state >> 1
            };
            bit += 1;
        }
        table[byte] = state;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    // The check values of the catalogue of parametrised CRC algorithms, and one vector of RFC 3720.
    #[test]
    fn checks_are_the_published_ones() {
        assert_eq!(crc32(&[b"1234", b"", b"56789"]), 0xcbf4_3926);
        assert_eq!(check(&CASTAGNOLI, &[b"123456789"]), 0xe306_9283);
        assert_eq!(check(&CASTAGNOLI, &[&[0u8; 32]]), 0x8a91_36aa);
        assert_eq!(crc32(&[]), 0);
    }
}
