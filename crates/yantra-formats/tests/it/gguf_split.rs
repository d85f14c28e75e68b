//! GGUF models split over several files.

use crate::support::{assert_says, pattern};
use std::{fs, path::Path};
use yantra_formats::{Checkpoint, GgufFile, GgufWriter, Value};
use yantra_kernels::WeightFormat;

/// Writes a model of one tensor in each of three parts; `claim` may change what a part says of itself.
fn write_parts(directory: &Path, claim: impl Fn(u16, &mut GgufWriter)) {
    for part in 0..3_u16 {
        let mut writer = GgufWriter::new();
        if part == 0 {
            writer.set("general.architecture", "llama").unwrap();
        }
        writer.set("split.no", Value::U16(part)).unwrap();
        writer.set("split.count", Value::U16(3)).unwrap();
        writer.set("split.tensors.count", 3_i32).unwrap();
        claim(part, &mut writer);
        let tensor = format!("blk.{part}.weight");
        writer.declare(&tensor, WeightFormat::F32, &[part as usize + 1]).unwrap();
        let file = fs::File::create(directory.join(format!("m-{:05}-of-00003.gguf", part + 1))).unwrap();
        let mut body = writer.begin(file).unwrap();
        body.write(&tensor, &pattern((part as usize + 1) * 4)).unwrap();
        body.finish().unwrap();
    }
}

#[test]
fn all_parts_are_opened_from_any() {
    let directory = tempfile::tempdir().unwrap();
    write_parts(directory.path(), |_, _| {});
    for part in 1..=3 {
        let file = GgufFile::open(directory.path().join(format!("m-{part:05}-of-00003.gguf"))).unwrap();
        assert_eq!(file.metadata().get_str("general.architecture"), Ok("llama"));
        assert_eq!(file.tensors().len(), 3);
        assert_eq!(file.tensor("blk.2.weight").unwrap().data, pattern(12));
        assert!(file.path().ends_with("m-00001-of-00003.gguf"));
    }
    // The directory holds one model, in three files.
    assert_eq!(Checkpoint::open(directory.path()).unwrap().tensors().len(), 3);
}

#[test]
fn wrong_parts_are_named() {
    let check = |spoil: &dyn Fn(&Path), claim: &dyn Fn(u16, &mut GgufWriter), parts: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        write_parts(directory.path(), claim);
        spoil(directory.path());
        assert_says(GgufFile::open(directory.path().join("m-00002-of-00003.gguf")).unwrap_err(), parts);
    };
    let keep: &dyn Fn(&Path) = &|_| {};
    let plain: &dyn Fn(u16, &mut GgufWriter) = &|_, _| {};
    let remove: &dyn Fn(&Path) = &|path| fs::remove_file(path.join("m-00003-of-00003.gguf")).unwrap();
    check(remove, plain, &["part of a split model", "m-00003-of-00003.gguf' is missing"]);
    let swap: &dyn Fn(&Path) = &|path| {
        fs::copy(path.join("m-00002-of-00003.gguf"), path.join("m-00003-of-00003.gguf")).unwrap();
    };
    check(swap, plain, &["m-00003-of-00003.gguf' does not say that it is part 3 of 3"]);
    let wrong_total = |_: u16, writer: &mut GgufWriter| {
        writer.set("split.tensors.count", 4_i32).unwrap();
    };
    check(keep, &wrong_total, &["3 parts hold 3 tensors", "names 4"]);
    let impossible = |part: u16, writer: &mut GgufWriter| {
        writer.set("split.no", Value::U16(part + 3)).unwrap();
    };
    check(keep, &impossible, &["claims to be part 4 (from 0) of 3"]);
    let duplicate = |_: u16, writer: &mut GgufWriter| {
        writer.declare("same", WeightFormat::F32, &[0]).unwrap();
    };
    check(keep, &duplicate, &["m-00002-of-00003.gguf", "tensor 'same' occurs twice"]);
}

#[test]
fn a_renamed_part_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    write_parts(directory.path(), |_, _| {});
    let renamed = directory.path().join("model.gguf");
    fs::rename(directory.path().join("m-00001-of-00003.gguf"), &renamed).unwrap();
    assert_says(GgufFile::open(renamed).unwrap_err(), &["model.gguf", "does not end in '-00001-of-00003.gguf'"]);
}
