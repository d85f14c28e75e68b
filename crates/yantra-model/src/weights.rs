//! Weights of a checkpoint by role: names, shapes, packing and quantisation at load.

use crate::{
    EncoderDtype, ModelError,
    quantized::{Matrix, Quantized, Wanted},
};
use std::{borrow::Cow, iter, ops::Range, path::Path};
use yantra_formats::{Checkpoint, TensorView};
use yantra_kernels::{Compute, LinearJob, PackedLinear, WeightFile, WeightFormat, dequantize_row, quantize_rows};

/// How weights are brought into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadOptions<'a> {
    /// Quantise float matrices to this format; quantised ones stay as they are.
    pub quantize: Option<WeightFormat>,
    /// Longest sequence that will be run, in tokens; the model's own context length when `None`.
    pub max_context: Option<usize>,
    /// What the matrices of an embedding model multiply in.
    pub encoder_dtype: EncoderDtype,
    /// A directory for a file that the experts of a mixture lie in: the system reads those that a router chooses, and needs no
    /// memory for the others. The file has no name and is gone with the model.
    pub expert_directory: Option<&'a Path>,
}

/// A matrix with its optional bias, ready for [`yantra_kernels::linear`].
pub(crate) struct Linear {
    pub(crate) weight: PackedLinear,
    pub(crate) bias: Option<Vec<f32>>,
}

impl Linear {
    /// The product with this matrix, written to `out` (`[num_tokens, rows]`).
    pub(crate) fn job<'a>(&'a self, out: &'a mut [f32]) -> LinearJob<'a> {
        LinearJob { weight: &self.weight, bias: self.bias.as_deref(), out, accumulate: false }
    }
}

/// Tensors of a checkpoint, fetched with their expected shape.
pub(crate) struct WeightSource<'a> {
    checkpoint: &'a Checkpoint,
    quantized: Option<Quantized<'a>>,
    options: LoadOptions<'a>,
    expert_file: Option<WeightFile>,
}

impl<'a> WeightSource<'a> {
    pub(crate) fn new(checkpoint: &'a Checkpoint, options: LoadOptions<'a>) -> Result<Self, ModelError> {
        Ok(Self { checkpoint, quantized: Quantized::of(checkpoint)?, options, expert_file: None })
    }

    /// Makes the file of experts, if the options ask for one.
    pub(crate) fn with_expert_file(mut self) -> Result<Self, ModelError> {
        self.expert_file = self.options.expert_directory.map(WeightFile::create).transpose()?;
        Ok(self)
    }

    pub(crate) fn options(&self) -> LoadOptions<'a> {
        self.options
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.checkpoint.tensor(name).is_some()
    }

    /// How the tensor of that name is stored.
    pub(crate) fn stored_format(&self, name: &str) -> Option<WeightFormat> {
        self.checkpoint.tensor(name).map(|view| view.format)
    }

    /// The tensor of that name and shape.
    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<TensorView<'a>, ModelError> {
        let view = self.checkpoint.require(name)?;
        if view.shape == shape {
            Ok(view)
        } else {
            Err(ModelError::TensorShape { name: name.to_owned(), given: view.shape, expected: shape.to_vec() })
        }
    }

    /// A vector of `len` values as f32.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, ModelError> {
        let view = self.tensor(name, &[len])?;
        let mut values = vec![0.0; len];
        dequantize_row(view.format, view.data, &mut values)?;
        Ok(values)
    }

    /// The vector if the checkpoint has it.
    pub(crate) fn optional_vector(&self, name: &str, len: usize) -> Result<Option<Vec<f32>>, ModelError> {
        self.has(name).then(|| self.vector(name, len)).transpose()
    }

    /// A matrix `[rows, cols]` as f32.
    pub(crate) fn table(&self, name: &str, rows: usize, cols: usize) -> Result<Vec<f32>, ModelError> {
        let view = self.tensor(name, &[rows, cols])?;
        let mut values = vec![0.0; rows * cols];
        dequantize_row(view.format, view.data, &mut values)?;
        Ok(values)
    }

    /// How many rows a matrix has; 0 if there is none of that name.
    pub(crate) fn tensor_rows(&self, name: &str) -> usize {
        self.checkpoint.tensor(name).and_then(|view| view.shape.first().copied()).unwrap_or(0)
    }

    /// A matrix of however many rows of `cols` as f32.
    pub(crate) fn rows_of(&self, name: &str, cols: usize) -> Result<Vec<f32>, ModelError> {
        let view = self.checkpoint.require(name)?;
        self.table(name, view.shape.first().copied().unwrap_or(0), cols)
    }

    /// The matrix of `cols` columns at a place packed for the processor, with its bias if there is one.
    pub(crate) fn linear(&self, cx: &Compute, place: &Place, cols: usize) -> Result<Linear, ModelError> {
        let weight = self.matrix(cx, place, cols)?;
        Ok(Linear { weight, bias: self.bias(place)? })
    }

    /// The same of an expert, in the file of experts if there is one.
    pub(crate) fn expert(&self, cx: &Compute, place: &Place, cols: usize) -> Result<Linear, ModelError> {
        let weight = self.packed(cx, place, cols, self.expert_file.as_ref())?;
        Ok(Linear { weight, bias: self.bias(place)? })
    }

    /// The bias of the matrix at a place, if there is one.
    pub(crate) fn bias(&self, place: &Place) -> Result<Option<Vec<f32>>, ModelError> {
        let name = place.bias_name();
        if !self.has(&name) {
            return Ok(None);
        }
        let stored = match place.part {
            None => self.vector(&name, place.stored_rows)?,
            Some((index, count)) => {
                let all = self.table(&name, count, place.stored_rows)?;
                all[index * place.stored_rows..][..place.stored_rows].to_vec()
            }
        };
        Ok(Some(place.pick(&stored, 1)))
    }

    /// What a matrix with rows of `cols` is quantised to; `None`: it stays as it is.
    pub(crate) fn target(&self, stored: WeightFormat, cols: usize) -> Option<WeightFormat> {
        self.options.quantize.filter(|_| stored.is_float()).and_then(|target| fitting(target, cols))
    }

    /// How the matrix of `cols` columns at a place is stored.
    pub(crate) fn stored(&self, place: &Place, cols: usize) -> Result<Stored<'a>, ModelError> {
        let wanted = Wanted { name: &place.name, rows: place.stored_rows, cols, part: place.part };
        let quantized = self.quantized.as_ref().map(|quantized| quantized.matrix(&wanted)).transpose()?.flatten();
        quantized.map_or_else(|| self.plain(place, cols).map(Stored::Plain), |matrix| Ok(Stored::Quantized(matrix)))
    }

    /// The matrix at a place as a tensor of its own.
    fn plain(&self, place: &Place, cols: usize) -> Result<TensorView<'a>, ModelError> {
        let rows = place.stored_rows;
        let [outer, inner] = if place.transposed { [cols, rows] } else { [rows, cols] };
        let view = match place.part {
            None => self.matrix_or_row(&place.weight_name(), outer, inner)?,
            Some((index, count)) => {
                let all = self.tensor(&place.weight_name(), &[count, outer, inner])?;
                let bytes = all.data.len() / count.max(1);
                TensorView { data: &all.data[index * bytes..][..bytes], shape: vec![outer, inner], ..all }
            }
        };
        if place.transposed && !view.format.is_float() {
            let feature = format!("{} in {}, stored by columns", place.name, view.format);
            return Err(ModelError::Unsupported { feature });
        }
        Ok(view)
    }

    /// A tensor of two dimensions; older files of llama.cpp's converter leave out the first where it is one row.
    fn matrix_or_row(&self, name: &str, rows: usize, cols: usize) -> Result<TensorView<'a>, ModelError> {
        match self.checkpoint.tensor(name) {
            Some(view) if rows == 1 && view.shape == [cols] => Ok(TensorView { shape: vec![rows, cols], ..view }),
            _ => self.tensor(name, &[rows, cols]),
        }
    }

    /// The matrix of `cols` columns at a place packed for the processor, quantised first if the options ask for it.
    pub(crate) fn matrix(&self, cx: &Compute, place: &Place, cols: usize) -> Result<PackedLinear, ModelError> {
        self.packed(cx, place, cols, None)
    }

    fn packed(
        &self,
        cx: &Compute,
        place: &Place,
        cols: usize,
        file: Option<&WeightFile>,
    ) -> Result<PackedLinear, ModelError> {
        let stored = self.stored(place, cols)?;
        let (rows, format) = (place.num_rows(), stored.format());
        let (format, bytes) = match self.target(format, cols) {
            None => (format, stored.bytes(cx, place, cols)?),
            Some(target) => (target, quantized(cx, target, cols, &self.floats(cx, place, cols)?)?.into()),
        };
        Ok(match file {
            None => PackedLinear::pack(cx, format, rows, cols, &bytes)?,
            Some(file) => PackedLinear::pack_to_file(cx, format, rows, cols, &bytes, file)?,
        })
    }

    /// The matrix of `cols` columns at a place as f32.
    pub(crate) fn floats(&self, cx: &Compute, place: &Place, cols: usize) -> Result<Vec<f32>, ModelError> {
        let stored = self.stored(place, cols)?;
        let mut values = vec![0.0; place.num_rows() * cols];
        dequantize_row(stored.format(), &stored.bytes(cx, place, cols)?, &mut values)?;
        Ok(values)
    }

    /// Packs a matrix of values, `[rows, cols]`, in a format.
    pub(crate) fn pack_floats(
        &self,
        cx: &Compute,
        format: WeightFormat,
        rows: usize,
        cols: usize,
        values: &[f32],
    ) -> Result<PackedLinear, ModelError> {
        Ok(PackedLinear::pack(cx, format, rows, cols, &quantized(cx, format, cols, values)?)?)
    }
}

/// Rows of `cols` values in a format.
fn quantized(cx: &Compute, format: WeightFormat, cols: usize, values: &[f32]) -> Result<Vec<u8>, ModelError> {
    let mut bytes = vec![0; values.len() / format.block_len() * format.block_bytes()];
    quantize_rows(cx, format, cols, values, &mut bytes)?;
    Ok(bytes)
}

/// A matrix as a checkpoint has it.
pub(crate) enum Stored<'a> {
    /// A tensor of a format of ours.
    Plain(TensorView<'a>),
    /// Tensors of another program's.
    Quantized(Matrix<'a>),
}

impl<'a> Stored<'a> {
    /// What its rows are read as.
    pub(crate) fn format(&self) -> WeightFormat {
        match self {
            Self::Plain(view) => view.format,
            Self::Quantized(matrix) => matrix.format(),
        }
    }

    /// Bytes that [`Self::bytes`] takes besides the file's.
    pub(crate) fn copied_bytes(&self, place: &Place, cols: usize) -> usize {
        let rows = self.format().row_bytes(cols).unwrap_or(0) * place.num_rows();
        match self {
            Self::Plain(_) if place.is_contiguous() => 0,
            Self::Plain(_) => rows,
            Self::Quantized(matrix) => rows + matrix.held_bytes(),
        }
    }

    /// The rows at a place of it, one after another; borrowed where they lie so.
    fn bytes(&self, cx: &Compute, place: &Place, cols: usize) -> Result<Cow<'a, [u8]>, ModelError> {
        match self {
            Self::Plain(view) => Ok(place.bytes(view, cols)),
            Self::Quantized(matrix) => Ok(Cow::Owned(matrix.bytes(cx, &place.rows)?)),
        }
    }
}

/// Where a matrix lies in a checkpoint: it may be some rows of a larger one, or stored by columns.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The tensor's name without `.weight` or `.bias`.
    pub(crate) name: String,
    /// Whether the name has no such ending, and the bias is called `…_bias`.
    pub(crate) bare: bool,
    /// Which of how many matrices it is in a tensor of three dimensions.
    pub(crate) part: Option<(usize, usize)>,
    /// Rows the tensor has.
    pub(crate) stored_rows: usize,
    /// Those that make the matrix, in its order.
    pub(crate) rows: Vec<Range<usize>>,
    /// Whether the tensor is `[cols, rows]`.
    pub(crate) transposed: bool,
}

impl Place {
    /// A tensor that is the matrix.
    pub(crate) fn whole(name: &str, rows: usize) -> Self {
        let rows_of = iter::once(0..rows).collect();
        Self { name: name.to_owned(), bare: false, part: None, stored_rows: rows, rows: rows_of, transposed: false }
    }

    pub(crate) fn weight_name(&self) -> String {
        if self.bare { self.name.clone() } else { format!("{}.weight", self.name) }
    }

    pub(crate) fn bias_name(&self) -> String {
        format!("{}{}", self.name, if self.bare { "_bias" } else { ".bias" })
    }

    /// Rows of the matrix.
    pub(crate) fn num_rows(&self) -> usize {
        self.rows.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether the matrix's rows lie one after another in the file.
    pub(crate) fn is_contiguous(&self) -> bool {
        !self.transposed && self.rows.len() == 1
    }

    /// The rows of the matrix out of the tensor's, each of so many `values`.
    pub(crate) fn pick<T: Copy>(&self, stored: &[T], values: usize) -> Vec<T> {
        self.rows.iter().flat_map(|rows| &stored[rows.start * values..rows.end * values]).copied().collect()
    }

    /// The matrix's bytes, row after row; borrowed where they lie so.
    pub(crate) fn bytes<'v>(&self, view: &TensorView<'v>, cols: usize) -> Cow<'v, [u8]> {
        let row_bytes = view.data.len() / self.stored_rows.max(1);
        if self.transposed {
            let value_bytes = row_bytes / cols.max(1);
            let value =
                |row: usize, col: usize| &view.data[(col * self.stored_rows + row) * value_bytes..][..value_bytes];
            let rows = self.rows.iter().cloned().flatten();
            return rows.flat_map(|row| (0..cols).flat_map(move |col| value(row, col))).copied().collect();
        }
        match &self.rows[..] {
            [rows] => Cow::Borrowed(&view.data[rows.start * row_bytes..rows.end * row_bytes]),
            _ => self.pick(view.data, row_bytes).into(),
        }
    }
}

/// The format itself if rows of `cols` are whole blocks of it, else the nearest one of blocks of 32, else none.
pub(crate) fn fitting(target: WeightFormat, cols: usize) -> Option<WeightFormat> {
    use WeightFormat as F;
    let fallback = match target {
        F::Q2_K | F::Q3_K | F::IQ4_XS => F::IQ4_NL,
        F::Q4_K => F::Q5_0,
        F::Q5_K => F::Q5_1,
        F::Q6_K => F::Q8_0,
        other => other,
    };
    [target, fallback].into_iter().find(|format| cols.is_multiple_of(format.block_len()))
}
