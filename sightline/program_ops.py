"""The ops that a .pt2 may call. Each uses only the memory of its own tensors, and torch checks its bounds.

All others are refused, because torch runs a program in this process: some ops read and write files, and some read any
memory. The list has PyTorch's core ops, and those of the models of timm and torchvision and of detectors. It leaves out
other namespaces, files, storages, views without bounds (set_, resize_, _reinterpret_tensor), uninitialized memory
(empty), random numbers, and gradients.
"""

from __future__ import annotations

# torch.ops.aten.NAME; never its overloads with names such as `out`
ATEN = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar _assert_tensor_metadata _local_scalar_dense
    _log_softmax _native_batch_norm_legit _native_batch_norm_legit_no_training _softmax _to_copy _unique2
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    abs abs_ absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d add add_ addbmm addcdiv addcmul addmm alias all alpha_dropout amax amin aminmax any arange
    arccos arcsin arctan arctan2 argmax argmin argsort argwhere as_strided asin asinh atan atan2 atanh
    atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d
    baddbmm batch_norm bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor bmm
    broadcast_tensors broadcast_to bucketize
    cat ceil ceil_ celu celu_ channel_shuffle chunk clamp clamp_ clamp_max clamp_max_ clamp_min clamp_min_ clip clip_
    clone col2im column_stack complex concat concatenate conj constant_pad_nd contiguous conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d convolution copy copy_ copysign cos cos_ cosh
    cosine_similarity cross cummax cummin cumprod cumsum
    deg2rad detach detach_ diag diag_embed diagonal diff div div_ divide dot dropout dropout_ dstack
    einsum elu elu_ embedding eq equal erf erf_ erfc erfinv exp exp2 exp_ expand expand_as expm1 eye
    feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft
    fft_irfft2 fft_rfft fft_rfft2 fill fill_ flatten flip fliplr flipud float_power floor floor_ floor_divide fmax fmin
    fmod frac frobenius_norm full full_like
    gather ge gelu gelu_ glu greater greater_equal grid_sampler grid_sampler_2d group_norm gru gt
    hardshrink hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ heaviside hstack hypot
    im2col imag index index_add index_add_ index_copy index_fill index_fill_ index_put index_put_ index_select inner
    instance_norm inverse is_nonzero isfinite isinf isnan item
    kthvalue
    layer_norm le leaky_relu leaky_relu_ lerp less less_equal lift_fresh_copy linalg_cross linalg_det linalg_inv
    linalg_matrix_norm linalg_norm linalg_solve linalg_svd linalg_vector_norm linear linspace log log10 log1p log2 log_
    log_sigmoid log_softmax logaddexp logical_and logical_not logical_or logical_xor logit logsumexp lstm lt
    masked_fill masked_fill_ masked_scatter masked_select matmul max max_pool1d max_pool2d max_pool2d_with_indices
    max_pool3d maximum mean median meshgrid min minimum mish mish_ mm moveaxis movedim mul mul_ multiply mv
    nan_to_num nan_to_num_ narrow native_batch_norm native_dropout native_group_norm native_layer_norm ne neg neg_
    negative new_full new_ones new_zeros nonzero nonzero_numpy norm not_equal numpy_T
    one_hot ones ones_like outer
    pad pairwise_distance permute pixel_shuffle pixel_unshuffle polar pow pow_ prelu prod
    rad2deg ravel real reciprocal reciprocal_ reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 relu6_ relu_
    remainder repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as
    resolve_conj resolve_neg rms_norm roll rot90 round round_ rsqrt rsqrt_ rsub
    scalar_tensor scaled_dot_product_attention scatter scatter_ scatter_add scatter_add_ scatter_reduce
    select select_scatter selu selu_ sigmoid sigmoid_ sign silu silu_ sin sin_ sinh slice slice_scatter softmax
    softplus softshrink sort split split_with_sizes sqrt sqrt_ square square_ squeeze squeeze_ stack std std_mean stft
    sub sub_ subtract sum svd swapaxes swapdims sym_constrain_range sym_constrain_range_for_size sym_numel sym_size
    sym_storage_offset sym_stride
    t take_along_dim tan tanh tanh_ tensor_split tensordot threshold threshold_ tile to topk transpose transpose_ tril
    triu true_divide trunc type_as
    unbind unflatten unfold unique_consecutive unique_dim unsqueeze unsqueeze_ upsample_bicubic2d upsample_bilinear2d
    upsample_linear1d upsample_nearest1d upsample_nearest2d
    vander var var_mean view view_as view_as_complex view_as_real vstack
    where
    xlogy
    zero_ zeros zeros_like
    """.split()  # noqa: SIM905 a list would take four times the lines
)
# torch.ops.higher_order.NAME: torch.export writes them for blocks under no_grad or autocast
HIGHER_ORDER = frozenset({"wrap_with_autocast", "wrap_with_set_grad_enabled"})
