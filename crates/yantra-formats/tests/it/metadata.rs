//! Typed access to metadata: conversions without loss, errors that name everything.

use crate::support::assert_says;
use yantra_formats::{Array, Metadata, MetadataError, Value};

fn metadata() -> Metadata {
    let pairs: [(&str, Value); 13] = [
        ("u8", 7_u8.into()),
        ("i32", (-5_i32).into()),
        ("u64", u64::MAX.into()),
        ("f32", 0.5_f32.into()),
        ("f64", 1e300_f64.into()),
        ("bool", true.into()),
        ("text", "hello".into()),
        ("texts", vec!["a".to_owned(), "b".to_owned()].into()),
        ("ints", vec![1_i32, 2, 3].into()),
        ("negative", vec![1_i32, -2].into()),
        ("floats", vec![0.5_f32, 1.0].into()),
        ("empty", Value::Array(Array::U8(Vec::new()))),
        ("whole", 10000_u32.into()),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

#[test]
fn values_convert_without_loss() {
    let metadata = metadata();
    assert_eq!(metadata.get::<u32>("u8"), Ok(7));
    assert_eq!(metadata.get::<i64>("i32"), Ok(-5));
    assert_eq!(metadata.get::<u64>("u64"), Ok(u64::MAX));
    assert_eq!(metadata.get::<f64>("f32"), Ok(0.5));
    assert_eq!(metadata.get::<f32>("whole"), Ok(10000.0));
    assert_eq!(metadata.get_bool("bool"), Ok(true));
    assert_eq!(metadata.get_str("text"), Ok("hello"));
    assert_eq!(metadata.get_strings("texts").unwrap(), ["a", "b"]);
    assert_eq!(metadata.get::<&[String]>("empty").unwrap(), [""; 0]);
    assert_eq!(metadata.get::<Vec<u32>>("ints"), Ok(vec![1, 2, 3]));
    assert_eq!(metadata.get::<Vec<f32>>("floats"), Ok(vec![0.5, 1.0]));
    assert_eq!(metadata.get::<Vec<f32>>("ints"), Ok(vec![1.0, 2.0, 3.0]));
    assert_eq!(metadata.find::<u32>("nothing"), Ok(None));
}

#[test]
fn wrong_values_are_named() {
    let metadata = metadata();
    let check = |error: MetadataError, parts: &[&str]| assert_says(error, parts);
    check(metadata.get::<u32>("nothing").unwrap_err(), &["'nothing'", "missing", "unsigned integer"]);
    check(metadata.get::<u32>("text").unwrap_err(), &["'text'", "type string", "unsigned integer"]);
    check(metadata.get::<u32>("i32").unwrap_err(), &["'i32'", "is -5"]);
    check(metadata.get::<u32>("u64").unwrap_err(), &["'u64'", "18446744073709551615"]);
    check(metadata.get::<f32>("f64").unwrap_err(), &["'f64'", "a number"]);
    check(metadata.get::<f64>("u64").unwrap_err(), &["'u64'"]);
    check(metadata.get::<Vec<u32>>("negative").unwrap_err(), &["'negative'", "is -2"]);
    check(metadata.get::<&[String]>("ints").unwrap_err(), &["'ints'", "array of i32", "array of strings"]);
    check(metadata.get::<bool>("u8").unwrap_err(), &["'u8'", "type u8", "a bool"]);
    check(metadata.find::<&str>("bool").unwrap_err(), &["'bool'", "a string"]);
}

#[test]
fn one_value_stands_for_every_layer() {
    let metadata = metadata();
    assert_eq!(metadata.find_per_layer("u8", 3), Ok(Some(vec![7, 7, 7])));
    assert_eq!(metadata.find_per_layer("ints", 3), Ok(Some(vec![1, 2, 3])));
    assert_eq!(metadata.find_per_layer("nothing", 3), Ok(None));
    assert_says(metadata.find_per_layer("ints", 4).unwrap_err(), &["'ints'", "array of 3 for 4 layers"]);
}

#[test]
fn setting_again_keeps_the_place() {
    let mut metadata = metadata();
    let len = metadata.len();
    metadata.set("u8", 8_u8.into());
    assert_eq!(metadata.len(), len);
    assert_eq!(metadata.iter().next(), Some(("u8", &Value::U8(8))));
}
