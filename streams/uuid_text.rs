//! UUIDs as text and as bytes: only the canonical lower-case hyphenated form, so that both ways are exact.

/// Bytes of UUID text.
pub(crate) const UUID_TEXT: usize = 36;
/// Where its hyphens stand.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// Where the two digits of each byte stand.
const DIGITS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
/// The digits by their value.
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The value of a lower-case hexadecimal digit, 255 of any other byte.
const HEX_VALUES: [u8; 256] = {
    let mut values = [255u8; 256];
    let mut i = 0;
    while i < HEX.len() {
        values[HEX[i] as usize] = i as u8;
        i += 1;
    }
    values
};

/// The bytes of canonical UUID text; none of any other text.
pub(crate) fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; UUID_TEXT] = text.as_bytes().try_into().ok()?;
    if HYPHENS.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut seen = 0u8;
    let bytes = DIGITS.map(|at| {
        let high = HEX_VALUES[usize::from(text[at])];
        let low = HEX_VALUES[usize::from(text[at + 1])];
        seen |= high | low;
        high << 4 | (low & 0x0f)
    });
    (seen < 16).then_some(bytes)
}

/// The canonical text of those bytes.
pub(crate) fn uuid_text(bytes: &[u8; 16]) -> [u8; UUID_TEXT] {
    let mut text = [b'-'; UUID_TEXT];
    for (byte, at) in bytes.iter().zip(DIGITS) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 0x0f)];
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// RFC 9562, appendix A.6.
    const V7: &str = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";

    #[test]
    fn the_standard_s_example_is_its_bytes() {
        let bytes = uuid_bytes(V7).unwrap();
        assert_eq!(
            u128::from_be_bytes(bytes),
            0x017f_22e2_79b0_7cc3_98c4_dc0c_0c07_398f
        );
        assert_eq!(&uuid_text(&bytes), V7.as_bytes());
    }

    #[test]
    fn no_other_form_is_taken() {
        for text in [
            "017F22E2-79B0-7CC3-98C4-DC0C0C07398F",
            "017f22e279b07cc398c4dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
            "017f22e2-79b0-7cc3-98c4_dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
            "",
        ] {
            assert_eq!(uuid_bytes(text), None, "{text}");
        }
    }
}
