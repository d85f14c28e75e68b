//! From an adapter's files to [`Adapter`]: every tensor finds its matrix, or the adapter is refused.

use super::{
    super::Decoder,
    Adapter, LowRank,
    settings::Settings,
    sites::{self, LayerSites, Site},
};
use crate::{
    ModelError,
    weights::{Linear, Place, WeightSource},
};
use std::collections::BTreeMap;
use yantra_formats::{AdapterFile, Checkpoint, TensorView};
use yantra_kernels::{ActivationKind, Compute, PackedLinear, WeightFormat, dequantize_row};

/// What may precede a module's name in an adapter, and in a checkpoint: it depends on who wrote it.
const PREFIXES: [&str; 6] =
    ["base_model.model.", "model.", "language_model.model.", "language_model.", "transformer.", "gpt_neox."];

/// The tensors of one module.
#[derive(Default)]
struct Module<'a> {
    /// Its name as PEFT's patterns see it.
    name: String,
    down: Option<TensorView<'a>>,
    up: Option<TensorView<'a>>,
    magnitude: Option<TensorView<'a>>,
    /// Whether some matrix was made of it.
    used: bool,
}

impl Decoder {
    /// Bytes for each token of a step with adapters of this rank, beside those of a step without.
    pub fn adapter_step_bytes(&self, rank: usize) -> usize {
        let inner = self.spec.layers.iter().map(|layer| layer.mlp.intermediate_size()).max().unwrap_or(0);
        // Gate and up; and what lies between the matrices of queries, keys and values.
        (2 * inner + 3 * rank) * size_of::<f32>()
    }

    /// Reads an adapter of this decoder, which was loaded from `checkpoint`. `cx` packs it: a context of its own, so that
    /// steps do not wait.
    ///
    /// # Errors
    /// If a tensor does not belong to a matrix that adapters may change, has another shape than it must, or a setting asks
    /// for something that is not built.
    pub fn load_adapter(
        &self,
        checkpoint: &Checkpoint,
        file: &AdapterFile,
        cx: &Compute,
    ) -> Result<Adapter, ModelError> {
        let settings = Settings::read(file)?;
        let mut modules = modules(file)?;
        let sites = sites::of_layers(checkpoint, file)?;
        let source = WeightSource::new(checkpoint, crate::LoadOptions::default())?;
        let (hash, layers) = std::thread::scope(|scope| {
            let hash = scope.spawn(|| file.content_hash());
            let maker = Maker { cx, settings: &settings, source: &source };
            let layers = self.layers.iter().zip(&sites).map(|(layer, sites)| {
                let mut parts: [Option<LowRank>; Site::COUNT] = Default::default();
                for site in Site::ALL {
                    let Some(base) = site.of(layer) else { continue };
                    parts[site as usize] = maker.part(&mut modules, sites, site, base)?;
                }
                Ok(parts)
            });
            let layers: Result<Vec<_>, ModelError> = layers.collect();
            (hash.join(), layers)
        });
        let layers = layers?;
        if let Some((name, _)) = modules.iter().find(|(_, module)| !module.used) {
            let feature = format!(
                "an adapter of '{name}', which is no matrix of this model's attention or feed-forward network,"
            );
            return Err(ModelError::Unsupported { feature });
        }
        let hash =
            hash.map_err(|_| ModelError::Unsupported { feature: "an adapter that can not be hashed".to_owned() })?;
        let rank = layers.iter().flatten().flatten().map(|part| part.down.rows()).max().unwrap_or(0);
        let parameters = file.tensors().map(|tensor| tensor.num_elements()).sum();
        Ok(Adapter { decoder: self.id, layers, hash, parameters, rank })
    }
}

/// The tensors by module.
fn modules(file: &AdapterFile) -> Result<BTreeMap<String, Module<'_>>, ModelError> {
    let mut modules: BTreeMap<String, Module<'_>> = BTreeMap::new();
    for tensor in file.tensors() {
        let name = &tensor.name;
        let part = match file {
            AdapterFile::Peft { .. } => name.strip_suffix(".weight").unwrap_or(name).rsplit_once('.'),
            AdapterFile::Gguf(_) => name.rsplit_once(".weight."),
        };
        let view = file.tensor(name);
        let place = part.and_then(|(module, part)| {
            let name = module.strip_prefix(PREFIXES[0]).unwrap_or(module).to_owned();
            let module = modules.entry(bare(module).to_owned()).or_insert_with(|| Module { name, ..Module::default() });
            match part {
                "lora_A" | "lora_a" => Some(&mut module.down),
                "lora_B" | "lora_b" => Some(&mut module.up),
                "lora_magnitude_vector" => Some(&mut module.magnitude),
                _ => None,
            }
        });
        match place {
            Some(place) => *place = view,
            None => return Err(ModelError::Unsupported { feature: format!("the tensor '{name}' of an adapter") }),
        }
    }
    match modules.is_empty() {
        false => Ok(modules),
        true => Err(ModelError::Unsupported { feature: "an adapter without tensors".to_owned() }),
    }
}

/// A module's name without what may precede it.
fn bare(mut name: &str) -> &str {
    while let Some(rest) = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix)) {
        name = rest;
    }
    name
}

/// What parts are made with.
struct Maker<'a> {
    cx: &'a Compute,
    settings: &'a Settings,
    source: &'a WeightSource<'a>,
}

impl Maker<'_> {
    /// What the adapter does to a matrix, if anything.
    fn part(
        &self,
        modules: &mut BTreeMap<String, Module<'_>>,
        sites: &LayerSites,
        site: Site,
        base: &Linear,
    ) -> Result<Option<LowRank>, ModelError> {
        let Some(place) = &sites.adapter[site as usize] else { return Ok(None) };
        let name = bare(&place.name);
        let Some(module) = modules.get_mut(name) else { return Ok(None) };
        module.used = true;
        let (Some(down), Some(up)) = (&module.down, &module.up) else {
            let feature = format!("an adapter that has only one matrix for '{name}'");
            return Err(ModelError::Unsupported { feature });
        };
        let (rows, cols) = (base.weight.rows(), base.weight.cols());
        let rank = down.shape.first().copied().unwrap_or(0);
        expect(down, &[rank.max(1), cols])?;
        expect(up, &[place.stored_rows, rank])?;
        let scale = self.settings.scale(&module.name, rank)?;
        let mut down = floats(down)?;
        down.iter_mut().for_each(|value| *value *= scale);
        let mut up = place.pick(&floats(up)?, rank);
        let factors = match (&module.magnitude, &sites.base[site as usize]) {
            (Some(magnitude), Some(base_place)) => {
                let magnitude = self.magnitude(magnitude, place)?;
                let weight = self.source.floats(self.cx, base_place, cols)?;
                Some(factors(&weight, &down, &up, &magnitude))
            }
            _ => None,
        };
        if let Some(factors) = &factors {
            for (row, factor) in up.chunks_exact_mut(rank).zip(factors) {
                row.iter_mut().for_each(|value| *value *= factor);
            }
        }
        let (down_format, up_format) = formats(&base.weight);
        Ok(Some(LowRank {
            down: self.pack(down_format, rank, cols, &down)?,
            up: self.pack(up_format, rows, rank, &up)?,
            factors,
        }))
    }

    /// A magnitude for each row of the matrix.
    fn magnitude(&self, view: &TensorView<'_>, place: &Place) -> Result<Vec<f32>, ModelError> {
        // A row or a column of it, in some versions.
        if view.num_elements() != place.stored_rows {
            expect(view, &[place.stored_rows])?;
        }
        Ok(place.pick(&floats(view)?, 1))
    }

    fn pack(&self, format: WeightFormat, rows: usize, cols: usize, values: &[f32]) -> Result<PackedLinear, ModelError> {
        const LARGEST_HALF: f32 = 65_504.0;
        let fits = format != WeightFormat::F16 || values.iter().all(|value| value.abs() <= LARGEST_HALF);
        self.source.pack_floats(self.cx, if fits { format } else { WeightFormat::F32 }, rows, cols, values)
    }
}

/// The formats of both matrices beside a matrix of the base; see the parent module.
fn formats(base: &PackedLinear) -> (WeightFormat, WeightFormat) {
    match (base.activation_kind(), base.format()) {
        (ActivationKind::Int8, _) => (WeightFormat::Q8_0, WeightFormat::F16),
        (ActivationKind::Float, WeightFormat::F32) => (WeightFormat::F32, WeightFormat::F32),
        (ActivationKind::Float, _) => (WeightFormat::F16, WeightFormat::F16),
    }
}

fn expect(view: &TensorView<'_>, shape: &[usize]) -> Result<(), ModelError> {
    if view.shape == shape {
        return Ok(());
    }
    Err(ModelError::TensorShape { name: view.name.to_owned(), given: view.shape.clone(), expected: shape.to_vec() })
}

fn floats(view: &TensorView<'_>) -> Result<Vec<f32>, ModelError> {
    let mut values = vec![0.0; view.num_elements()];
    dequantize_row(view.format, view.data, &mut values)?;
    Ok(values)
}

/// The magnitude of each row divided by its length, `|weight + up * down|`.
fn factors(weight: &[f32], down: &[f32], up: &[f32], magnitude: &[f32]) -> Vec<f32> {
    let rows = magnitude.len();
    let (cols, rank) = (weight.len() / rows.max(1), up.len() / rows.max(1));
    let mut sum = vec![0.0; cols];
    let length = |(weight, up): (&[f32], &[f32])| {
        sum.copy_from_slice(weight);
        for (factor, down) in up.iter().zip(down.chunks_exact(cols)) {
            sum.iter_mut().zip(down).for_each(|(sum, down)| *sum += factor * down);
        }
        sum.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt() as f32
    };
    let lengths = weight.chunks_exact(cols).zip(up.chunks_exact(rank)).map(length);
    lengths.zip(magnitude).map(|(length, magnitude)| magnitude / length).collect()
}
