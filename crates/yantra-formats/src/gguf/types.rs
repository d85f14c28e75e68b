//! The numbers ggml gives its tensor types.

use yantra_kernels::WeightFormat;

/// The formats that can be read, with their numbers.
const SUPPORTED: [(u32, WeightFormat); 16] = [
    (0, WeightFormat::F32),
    (1, WeightFormat::F16),
    (2, WeightFormat::Q4_0),
    (3, WeightFormat::Q4_1),
    (6, WeightFormat::Q5_0),
    (7, WeightFormat::Q5_1),
    (8, WeightFormat::Q8_0),
    (10, WeightFormat::Q2_K),
    (11, WeightFormat::Q3_K),
    (12, WeightFormat::Q4_K),
    (13, WeightFormat::Q5_K),
    (14, WeightFormat::Q6_K),
    (20, WeightFormat::IQ4_NL),
    (23, WeightFormat::IQ4_XS),
    (30, WeightFormat::BF16),
    (39, WeightFormat::MXFP4),
];

/// Types of ggml that are known by name only, so that an error can name them.
const UNSUPPORTED: [(u32, &str); 27] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

/// The format with ggml's number `number`; otherwise its name, if ggml has such a type.
pub(super) fn format_from_number(number: u32) -> Result<WeightFormat, Option<&'static str>> {
    if let Some((_, format)) = SUPPORTED.iter().find(|(known, _)| *known == number) {
        return Ok(*format);
    }
    Err(UNSUPPORTED.iter().find(|(known, _)| *known == number).map(|(_, name)| *name))
}

/// ggml's number of a format.
pub(super) fn number_of(format: WeightFormat) -> u32 {
    // Exhaustive, so that a new format can not be forgotten here.
    match format {
        WeightFormat::F32 => 0,
        WeightFormat::F16 => 1,
        WeightFormat::Q4_0 => 2,
        WeightFormat::Q4_1 => 3,
        WeightFormat::Q5_0 => 6,
        WeightFormat::Q5_1 => 7,
        WeightFormat::Q8_0 => 8,
        WeightFormat::Q2_K => 10,
        WeightFormat::Q3_K => 11,
        WeightFormat::Q4_K => 12,
        WeightFormat::Q5_K => 13,
        WeightFormat::Q6_K => 14,
        WeightFormat::IQ4_NL => 20,
        WeightFormat::IQ4_XS => 23,
        WeightFormat::BF16 => 30,
        WeightFormat::MXFP4 => 39,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_formats_agree_both_ways() {
        for format in WeightFormat::all() {
            assert_eq!(format_from_number(number_of(format)), Ok(format));
        }
        let supported = SUPPORTED.iter().map(|(number, _)| *number);
        let mut numbers: Vec<u32> = supported.chain(UNSUPPORTED.iter().map(|(number, _)| *number)).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..43).collect::<Vec<_>>());
    }
}
