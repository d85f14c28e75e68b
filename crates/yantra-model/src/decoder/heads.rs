//! Queries, keys and values by a matrix each: multi-head, grouped-query and multi-query attention.

use super::{
    adapter::{Changed, LayerAdapters, Site},
    layer::Norm,
    names::{Names, Role},
};
use crate::{
    AttentionSpec, ModelError, ModelSpec, QkNorm,
    weights::{Linear, Place, WeightSource},
};
use yantra_kernels::{Activations, Compute, PackedLinear, RopeTable, clamp, linear, rope};

/// A matrix each for queries, keys and values.
pub(super) struct Heads {
    query: Linear,
    key: Linear,
    value: Linear,
    query_norm: Option<Norm>,
    key_norm: Option<Norm>,
}

impl Heads {
    pub(super) fn load(
        source: &WeightSource<'_>,
        cx: &Compute,
        spec: &ModelSpec,
        names: &Names<'_>,
        index: usize,
    ) -> Result<Self, ModelError> {
        let [query, key, value] = places(spec, names, index).map(|place| source.linear(cx, &place, spec.hidden_size));
        let without_weights = spec.attention.qk_norm == QkNorm::RotatedHead;
        let norm = |role, len| match len {
            _ if without_weights => Ok(Some(Norm::without_weights(spec.norm, spec.attention.head_dim))),
            0 => Ok(None),
            len => Norm::load(source, spec.norm, &names.layer(index, role), len).map(Some),
        };
        let (query_norm, key_norm) = qk_norm_sizes(spec);
        Ok(Self {
            query: query?,
            key: key?,
            value: value?,
            query_norm: norm(Role::QueryNorm, query_norm)?,
            key_norm: norm(Role::KeyNorm, key_norm)?,
        })
    }

    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedLinear> {
        self.linears().into_iter().map(|linear| &linear.weight)
    }

    /// Those of queries, keys and values.
    pub(super) fn linears(&self) -> [&Linear; 3] {
        [&self.query, &self.key, &self.value]
    }

    /// Makes queries, keys and values, rotated and all.
    #[expect(clippy::too_many_arguments, reason = "the operands of a block")]
    pub(super) fn project(
        &self,
        cx: &Compute,
        spec: &AttentionSpec,
        table: Option<&RopeTable>,
        positions: &[u32],
        input: &Activations,
        adapters: (LayerAdapters<'_>, &mut Vec<f32>),
        query: &mut [f32],
        key: &mut [f32],
        value: &mut [f32],
    ) {
        let AttentionSpec { num_heads, num_kv_heads, head_dim, rope_style, clip, qk_norm, sharpening, .. } = *spec;
        linear(cx, input, &mut [self.query.job(query), self.key.job(key), self.value.job(value)]);
        let (adapters, buffer) = adapters;
        if adapters.touch(&[Site::Query, Site::Key, Site::Value]) {
            let products = [
                Changed { site: Site::Query, base: &self.query, out: &mut *query },
                Changed { site: Site::Key, base: &self.key, out: &mut *key },
                Changed { site: Site::Value, base: &self.value, out: &mut *value },
            ];
            adapters.change(cx, input, products, buffer);
        }
        if let Some(bound) = clip {
            [&mut *query, key, value].into_iter().for_each(|values| clamp(cx, values, bound));
        }
        let normalise = |wanted: bool, query: &mut [f32], key: &mut [f32]| {
            if let (true, Some(query_norm), Some(key_norm)) = (wanted, &self.query_norm, &self.key_norm) {
                query_norm.in_place(cx, query);
                key_norm.in_place(cx, key);
            }
        };
        normalise(qk_norm != QkNorm::RotatedHead, query, key);
        match (table, sharpening) {
            (Some(table), _) => {
                rope(cx, table, rope_style, query, num_heads, head_dim, positions);
                rope(cx, table, rope_style, key, num_kv_heads, head_dim, positions);
                normalise(qk_norm == QkNorm::RotatedHead, query, key);
            }
            (None, Some(sharpening)) => {
                for (query, position) in query.chunks_exact_mut(num_heads * head_dim).zip(positions) {
                    let factor = sharpening.factor(*position);
                    query.iter_mut().for_each(|query| *query *= factor);
                }
            }
            (None, None) => {}
        }
    }
}

/// Where the matrices lie.
pub(super) fn places(spec: &ModelSpec, names: &Names<'_>, index: usize) -> [Place; 3] {
    let (query, kv) = (spec.query_size(), spec.kv_size());
    [(Role::Query, query), (Role::Key, kv), (Role::Value, kv)].map(|(role, rows)| names.matrix(spec, index, role, rows))
}

/// Values that the norms of queries and keys have; 0 where there are none.
fn qk_norm_sizes(spec: &ModelSpec) -> (usize, usize) {
    match spec.attention.qk_norm {
        QkNorm::None | QkNorm::RotatedHead => (0, 0),
        QkNorm::Head => (spec.attention.head_dim, spec.attention.head_dim),
        QkNorm::Token => (spec.query_size(), spec.kv_size()),
    }
}
