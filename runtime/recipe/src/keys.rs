//! Every key that is understood, in any spelling, and what it does: one table for files, steps of Modelfiles and flags.
//!
//! Names of several programs stand side by side because they mean the same wherever they are written. What differs between programs,
//! the defaults, is in `dialect`. Sources: Transformers 5.24 (and the names that 4.x had), PEFT 0.21.2, TRL 1.16, Axolotl 0.19.

use witness_diagnostics::near_misses;

use crate::convert;
use crate::data;
use crate::draft::{Draft, Field};
use crate::error::{Fault, Problem};
use crate::lora;
use crate::node::Value;
use crate::read::Expected;
use crate::settings::{self, SETTINGS};

/// What a key does.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// It is a setting, or another name of one.
    As(&'static str),
    /// It is a field of PEFT's LoraConfig.
    Lora(&'static str),
    /// It is read by a function.
    By(fn(&mut Draft, &Field) -> Result<(), Fault>),
    /// Whatever it says makes no difference here.
    NoEffect(&'static str),
    /// It would change what is learned and cannot be done: fine when it says no.
    NotYet(&'static str),
}

const CUDA: &str = "it is about graphics cards";
const DEVICES: &str = "one process on one machine trains";
const KERNEL: &str = "it chooses among ways to compute the same";
const PADDING: &str = "nothing is padded";
const HUB: &str = "nothing is sent anywhere";
const LOADING: &str = "rows are in memory";
const LOADED: &str = "the model is loaded by what its files say";
const PROGRESS: &str = "the progress is shown in any case, and every event is kept";
const DEBUG: &str = "it only helps to look inside the other program";
const TRACKER: &str = "of the trackers, tensorboard and wandb are written";
const PREPARED: &str = "rows are prepared anew in each run";
const MEASURED: &str = "only the loss is measured";
const SAVED: &str = "a checkpoint holds everything that going on needs, as safetensors";
const OTHER: &str = "it belongs to a method or optimizer that is not chosen";
const GOING_ON: &str = "`witness train resume` goes on with a run";

use Rule::{As, By, Lora, NoEffect, NotYet};

/// Names and what they do. A name occurs once.
const KEYS: &[(&[&str], Rule)] = &[
    // Ours, shorter.
    (&["epochs", "num_train_epochs"], As("num_epochs")),
    (&["lr"], As("learning_rate")),
    (
        &[
            "batch",
            "batch_size_per_device",
            "per_device_train_batch_size",
            "per_gpu_train_batch_size",
        ],
        As("micro_batch_size"),
    ),
    (&["accumulate", "accumulation"], As("gradient_accumulation_steps")),
    (&["seq_len", "sequence_length", "max_seq_len"], As("sequence_len")),
    (&["packing"], As("sample_packing")),
    (&["warmup"], By(convert::warmup)),
    (&["steps"], As("max_steps")),
    (&["model"], As("name")),
    (
        &[
            "base_model",
            "model_name_or_path",
            "base_model_name_or_path",
            "model_id",
            "from",
        ],
        As("base"),
    ),
    (
        &["data", "train_data", "train_file", "train_files", "dataset"],
        By(data::data),
    ),
    (
        &[
            "validation",
            "validation_data",
            "validation_file",
            "validation_files",
            "eval_data",
            "eval_file",
        ],
        By(data::validation),
    ),
    (&["template", "chat_template_jinja"], By(convert::template)),
    (&["system", "system_message"], By(convert::system)),
    (&["lora", "lora_config", "peft_config"], By(lora::nested)),
    (&["scratch"], By(convert::scratch)),
    (&["dialect"], NoEffect("it says whose keys these are")),
    // Transformers' TrainingArguments.
    (
        &["per_device_eval_batch_size", "per_gpu_eval_batch_size"],
        As("eval_batch_size"),
    ),
    (&["max_steps"], By(convert::max_steps)),
    (&["lr_scheduler_type", "lr_scheduler"], By(convert::lr_scheduler)),
    (&["warmup_steps"], By(convert::warmup_steps)),
    (&["optim", "optimizer"], By(convert::optimizer)),
    (&["adafactor"], By(convert::adafactor)),
    (&["optim_args"], NotYet("arguments of an optimizer of another program")),
    (
        &["optim_target_modules"],
        NotYet("an optimizer of another kind for some modules"),
    ),
    (&["label_smoothing_factor"], NotYet("smoothed labels")),
    (&["bf16", "bfloat16"], By(convert::bf16)),
    (&["fp16", "float16", "half_precision"], By(convert::fp16)),
    (&["float32", "f32"], By(convert::float32)),
    (&["torch_dtype", "dtype", "base_dtype"], By(convert::dtype)),
    (
        &["bf16_full_eval", "fp16_full_eval"],
        NoEffect("evaluation computes as training does"),
    ),
    (
        &[
            "fp16_backend",
            "fp16_opt_level",
            "half_precision_backend",
            "tf32",
            "fp8",
            "fp8_config",
            "fp8_enable_fsdp_float8_all_gather",
            "use_mps_device",
            "no_cuda",
            "use_cpu",
            "use_ipex",
            "xpu_backend",
            "tpu_num_cores",
            "tpu_metrics_debug",
            "torch_empty_cache_steps",
            "gc_steps",
            "gc_collect_steps",
            "device",
            "device_map",
            "max_memory",
            "gpu_memory_limit",
            "lora_on_cpu",
            "experimental_skip_move_to_device",
            "ple_cpu_offload",
            "layer_offloading",
            "activation_offloading",
        ],
        NoEffect(CUDA),
    ),
    (
        &[
            "activation_checkpointing",
            "gradient_checkpointing",
            "use_gradient_checkpointing",
        ],
        By(convert::checkpointing),
    ),
    (
        &[
            "activation_checkpointing_kwargs",
            "gradient_checkpointing_kwargs",
            "selective_checkpointing",
        ],
        NoEffect("activations are computed again a layer at a time"),
    ),
    (
        &[
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "torch_compile_options",
            "torchdynamo",
            "jit_mode_eval",
            "use_liger_kernel",
            "use_liger",
            "liger_kernel_config",
            "use_cache",
            "use_kernels",
            "attn_implementation",
            "flash_attention",
            "sdp_attention",
            "xformers_attention",
            "flex_attention",
            "flex_attn_compile_kwargs",
            "sage_attention",
            "eager_attention",
            "use_flash_attention_2",
            "flash_attn_cross_entropy",
            "flash_attn_rms_norm",
            "flash_attn_fuse_qkv",
            "flash_attn_fuse_mlp",
            "flash_attn_d512",
            "flash_optimum",
            "sdpa_varlen",
            "fused_attn_kernel",
            "gemma4_hybrid_attn_impl",
            "large_head_attention",
            "experts_implementation",
            "quantize_moe_experts",
            "lora_mlp_kernel",
            "lora_qkv_kernel",
            "lora_o_kernel",
            "lora_embedding_kernel",
            "chunked_cross_entropy",
            "chunked_cross_entropy_num_chunks",
            "cut_cross_entropy",
            "liger_rope",
            "liger_rms_norm",
            "liger_rms_norm_gated",
            "liger_layer_norm",
            "liger_swiglu",
            "liger_glu_activation",
            "liger_cross_entropy",
            "liger_fused_linear_cross_entropy",
            "liger_kernel_impl",
            "unsloth_cross_entropy_loss",
            "unsloth_lora_mlp",
            "unsloth_lora_qkv",
            "unsloth_lora_o",
            "unsloth_rms_norm",
            "unsloth_rope",
            "tiled_mlp",
            "tiled_mlp_num_shards",
            "tiled_mlp_use_original_mlp",
            "llama4_linearized_experts",
            "fp32_norms",
            "fp32_norm_classes",
            "embeddings_skip_upcast",
            "low_cpu_mem_usage",
            "deepcompile",
        ],
        NoEffect(KERNEL),
    ),
    (
        &[
            "padding",
            "padding_free",
            "pad_to_multiple_of",
            "pad_to_sequence_len",
            "batch_flattening",
        ],
        NoEffect(PADDING),
    ),
    (
        &["neftune_noise_alpha", "noisy_embedding_alpha"],
        NotYet("noise in the embeddings"),
    ),
    (
        &["auto_find_batch_size"],
        NoEffect("the memory of a run is reckoned before its first step"),
    ),
    (&["logging_strategy"], By(convert::logging_strategy)),
    (&["logging_steps"], By(convert::logging_steps)),
    (
        &["logging_dir"],
        NoEffect("TensorBoard's files lie in the directory of the run"),
    ),
    (
        &["logging_nan_inf_filter"],
        NoEffect("a loss that is not a number stops the run"),
    ),
    (
        &[
            "log_on_each_node",
            "log_level",
            "log_level_replica",
            "disable_tqdm",
            "include_num_input_tokens_seen",
            "include_tokens_per_second",
            "include_tkps",
            "verbose",
        ],
        NoEffect(PROGRESS),
    ),
    (&["report_to"], By(convert::report_to)),
    (&["project"], As("wandb_project")),
    (&["evaluation_strategy"], As("eval_strategy")),
    (&["eval_steps"], By(convert::eval_steps)),
    (&["save_steps"], By(convert::save_steps)),
    (&["do_eval", "evaluate_during_training"], By(convert::do_eval)),
    (&["eval_delay"], NotYet("evaluations that begin later")),
    (
        &["eval_on_start"],
        NoEffect("the first measurement is made after the first steps"),
    ),
    (&["metric_for_best_model"], By(convert::metric)),
    (&["greater_is_better"], By(convert::greater_is_better)),
    (
        &[
            "prediction_loss_only",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "include_inputs_for_metrics",
            "include_for_metrics",
            "batch_eval_metrics",
            "past_index",
            "predict_with_generate",
            "do_predict",
            "do_causal_lm_eval",
            "eval_causal_lm_metrics",
            "do_bench_eval",
            "bench_dataset",
            "bench_split",
            "bench_source_max_len",
            "eval_table_size",
            "eval_max_new_tokens",
            "generate_samples",
            "num_generation_samples",
            "generation_max_new_tokens",
            "generation_temperature",
            "generation_top_p",
            "generation_top_k",
            "generation_prompt_ratio",
            "generation_do_sample",
            "lm_eval_tasks",
            "lm_eval_batch_size",
            "lm_eval_post_train",
            "lm_eval_model",
        ],
        NoEffect(MEASURED),
    ),
    (
        &[
            "save_only_model",
            "save_safetensors",
            "save_on_each_node",
            "enable_jit_checkpoint",
            "save_first_step",
        ],
        NoEffect(SAVED),
    ),
    (
        &["dynamic_checkpoint"],
        NoEffect("`witness train stop` saves a checkpoint at any time"),
    ),
    (&["save_total_limit"], By(convert::save_total_limit)),
    (&["early_stopping_patience"], By(convert::early_stopping)),
    (&["push_to_hub"], By(convert::push_to_hub)),
    (
        &[
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
            "push_to_hub_model_id",
            "push_to_hub_organization",
            "push_to_hub_token",
            "push_dataset_to_hub",
            "hf_use_auth_token",
        ],
        NoEffect(HUB),
    ),
    (
        &[
            "ignore_data_skip",
            "restore_callback_states_from_checkpoint",
            "overwrite_output_dir",
        ],
        NoEffect(GOING_ON),
    ),
    (
        &[
            "resume_from_checkpoint",
            "auto_resume_from_checkpoints",
            "auto_resume_from_checkpoint",
        ],
        By(convert::resume),
    ),
    (
        &["full_determinism"],
        NoEffect("equal runs give equal weights in any case"),
    ),
    (&["data_seed"], By(convert::data_seed)),
    (
        &[
            "average_tokens_across_devices",
            "accelerator_config",
            "parallelism_config",
            "ddp",
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ddp_backend",
            "ddp_timeout",
            "fsdp",
            "fsdp_config",
            "fsdp_version",
            "fsdp_min_num_params",
            "fsdp_transformer_layer_cls_to_wrap",
            "fsdp_final_state_dict_type",
            "deepspeed",
            "local_rank",
            "world_size",
            "sharded_ddp",
            "mp_parameters",
            "ray_scope",
            "split_batches",
            "dispatch_batches",
            "dp_shard_size",
            "dp_replicate_size",
            "sequence_parallel_degree",
            "context_parallel_size",
            "tensor_parallel_size",
            "expert_parallel_size",
            "heads_k_stride",
            "ring_attn_func",
            "use_ray",
            "ray_run_name",
            "ray_num_workers",
            "resources_per_worker",
            "qlora_sharded_model_loading",
        ],
        NoEffect(DEVICES),
    ),
    (
        &[
            "dataloader_num_workers",
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
            "dataset_num_proc",
            "dataset_processes",
            "dataset_keep_in_memory",
            "dataset_kwargs",
            "dataset_text_field",
            "preprocessing_num_workers",
            "streaming",
            "streaming_multipack_buffer_size",
            "pretrain_multipack_buffer_size",
            "remove_unused_columns",
            "label_names",
            "length_column_name",
            "sample_packing_group_size",
            "sample_packing_bin_size",
            "sample_packing_mp_start_method",
            "sample_packing_eff_est",
            "total_num_tokens",
            "total_supervised_tokens",
            "multipack_real_batches",
            "pretrain_multipack_attn",
            "packing_strategy",
            "eval_packing",
            "eval_sample_packing",
        ],
        NoEffect(LOADING),
    ),
    (
        &["dataloader_drop_last"],
        NotYet("the last rows of an epoch to be left out"),
    ),
    (&["train_sampling_strategy"], By(convert::sampling)),
    (
        &[
            "debug",
            "skip_memory_metrics",
            "do_train",
            "profiler_steps",
            "profiler_steps_start",
            "is_preprocess",
            "axolotl_config_path",
        ],
        NoEffect(DEBUG),
    ),
    (
        &[
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
            "trackio_project_name",
            "trackio_run_name",
        ],
        NoEffect(TRACKER),
    ),
    // What the guide's script passes to from_pretrained, the tokenizer and TRL.
    (
        &[
            "trust_remote_code",
            "revision",
            "revision_of_model",
            "model_revision",
            "model_type",
            "type_of_model",
            "tokenizer_type",
            "tokenizer_config",
            "tokenizer_use_fast",
            "tokenizer_legacy",
            "tokenizer_use_mistral_common",
            "tokenizer_save_jinja_files",
            "tokenizer_name",
            "processor_type",
            "processor_kwargs",
            "base_model_config",
            "base_model_ignore_patterns",
            "cls_model_config",
            "use_fast_tokenizer",
            "is_falcon_derived_model",
            "is_llama_derived_model",
            "is_mistral_derived_model",
            "is_qwen_derived_model",
            "padding_side",
            "pad_token",
            "truncation_side",
            "resize_token_embeddings_to_32x",
            "mean_resizing_embeddings",
            "shrink_embeddings",
            "model_init_kwargs",
        ],
        NoEffect(LOADED),
    ),
    (
        &["max_length", "max_seq_length", "model_max_length", "cutoff_len"],
        By(convert::max_length),
    ),
    (&["truncation"], By(convert::truncation)),
    (&["assistant_only_loss"], By(convert::assistant_only)),
    (&["completion_only_loss", "mask_prompt"], By(convert::assistant_only)),
    (&["loss_type"], By(convert::loss_type)),
    (&["bnb_4bit_quant_type"], By(convert::bnb_quant_type)),
    (&["bnb_4bit_use_double_quant"], By(convert::bnb_double_quant)),
    (&["bnb_4bit_compute_dtype"], By(convert::dtype_of_compute)),
    (&["bnb_config_kwargs"], By(convert::bnb_config)),
    (&["load_in_4bit"], By(convert::load_in_4bit)),
    (&["load_in_8bit"], By(convert::load_in_8bit)),
    // PEFT's LoraConfig, and Axolotl's names for its fields.
    (&["r", "rank", "lora_r", "lora_rank"], Lora("r")),
    (&["alpha", "lora_alpha"], Lora("lora_alpha")),
    (&["dropout", "lora_dropout"], Lora("lora_dropout")),
    (
        &["targets", "target_modules", "lora_target_modules", "lora_target"],
        Lora("target_modules"),
    ),
    (&["bias"], Lora("bias")),
    (&["use_rslora", "rslora", "peft_use_rslora"], Lora("use_rslora")),
    (&["use_dora", "dora", "peft_use_dora"], Lora("use_dora")),
    (
        &["modules_to_save", "lora_modules_to_save", "additional_target"],
        Lora("modules_to_save"),
    ),
    (&["rank_pattern", "lora_rank_pattern"], Lora("rank_pattern")),
    (&["alpha_pattern", "lora_alpha_pattern"], Lora("alpha_pattern")),
    (
        &["layers_to_transform", "peft_layers_to_transform"],
        Lora("layers_to_transform"),
    ),
    (&["layers_pattern", "peft_layers_pattern"], Lora("layers_pattern")),
    (&["exclude_modules", "lora_exclude_modules"], Lora("exclude_modules")),
    (
        &["init_lora_weights", "peft_init_lora_weights"],
        Lora("init_lora_weights"),
    ),
    (&["fan_in_fan_out", "lora_fan_in_fan_out"], Lora("fan_in_fan_out")),
    (
        &["trainable_token_indices", "peft_trainable_token_indices"],
        Lora("trainable_token_indices"),
    ),
    (
        &["layer_replication", "peft_layer_replication"],
        Lora("layer_replication"),
    ),
    (
        &["target_parameters", "lora_target_parameters"],
        Lora("target_parameters"),
    ),
    (
        &["ensure_weight_tying", "peft_ensure_weight_tying"],
        Lora("ensure_weight_tying"),
    ),
    (&["lora_bias"], Lora("lora_bias")),
    (&["loftq_config"], Lora("loftq_config")),
    (&["eva_config"], Lora("eva_config")),
    (&["corda_config"], Lora("corda_config")),
    (&["lora_ga_config"], Lora("lora_ga_config")),
    (&["velora_config"], Lora("velora_config")),
    (&["alora_invocation_tokens"], Lora("alora_invocation_tokens")),
    (&["use_qalora"], Lora("use_qalora")),
    (&["monteclora_config"], Lora("monteclora_config")),
    (&["use_bdlora"], Lora("use_bdlora")),
    (&["arrow_config"], Lora("arrow_config")),
    (&["kasa_config"], Lora("kasa_config")),
    (&["peft"], By(lora::peft)),
    (&["lora_target_linear"], By(lora::target_linear)),
    (&["task_type"], By(lora::task_type)),
    (&["peft_type"], By(lora::peft_type)),
    (
        &[
            "inference_mode",
            "auto_mapping",
            "peft_version",
            "runtime_config",
            "megatron_config",
            "megatron_core",
            "qalora_group_size",
        ],
        NoEffect("PEFT keeps it for itself"),
    ),
    (
        &["peft_autocast_adapter_dtype", "autocast_adapter_dtype"],
        NoEffect("adapters are in f32 in any case"),
    ),
    // Axolotl.
    (&["adapter"], By(lora::adapter)),
    (&["method"], By(lora::method)),
    (&["datasets"], By(data::datasets)),
    (&["test_datasets"], By(data::test_datasets)),
    (
        &["pretraining_dataset"],
        NotYet("pre-training on a stream of text (use `datasets` with `type: completion`)"),
    ),
    (&["strict"], NoEffect("an unknown key is an error in any case")),
    (&["batch_size"], By(convert::batch_size)),
    (&["excess_length_strategy"], By(convert::excess_length)),
    (&["evals_per_epoch"], By(convert::evals_per_epoch)),
    (&["saves_per_epoch"], By(convert::saves_per_epoch)),
    (&["cosine_min_lr_ratio"], By(convert::cosine_min_lr_ratio)),
    (
        &["cosine_constant_lr_ratio"],
        NotYet("a cosine that ends before the run does"),
    ),
    (&["lr_quadratic_warmup"], NotYet("a quadratic warm-up")),
    (&["lr_div_factor"], NotYet("a warm-up that begins above 0")),
    (
        &["lr_groups", "embedding_lr", "embedding_lr_scale"],
        NotYet("a learning rate of its own for some weights"),
    ),
    (&["loraplus_lr_ratio"], NotYet("LoRA+, a higher learning rate for B")),
    (&["loraplus_lr_embedding"], NoEffect(OTHER)),
    (&["adam_beta3", "adam_epsilon2"], NoEffect(OTHER)),
    (
        &[
            "dion_lr",
            "dion_momentum",
            "dion_rank_fraction",
            "dion_rank_multiple_of",
            "qgalore_rank",
            "qgalore_update_proj_gap",
            "qgalore_scale",
            "qgalore_proj_type",
            "qgalore_proj_quant",
            "qgalore_proj_bits",
            "qgalore_proj_group_size",
            "qgalore_cos_threshold",
            "qgalore_gamma_proj",
            "qgalore_queue_size",
            "torchdistx_path",
            "trl",
            "vllm",
            "ebft",
            "dpo_beta",
            "dpo_label_smoothing",
            "dpo_loss_type",
            "dpo_loss_weights",
            "dpo_use_weighting",
            "dpo_use_logits_to_keep",
            "dpo_generate_during_eval",
            "dpo_norm_loss",
            "dpo_padding_free",
            "dpo_use_liger_kernel",
            "precompute_ref_log_probs",
            "rpo_alpha",
            "orpo_alpha",
            "simpo_gamma",
            "cpo_alpha",
            "kto_desirable_weight",
            "kto_undesirable_weight",
            "rl_beta",
            "center_rewards_coefficient",
            "num_labels",
            "max_prompt_len",
            "relora_prune_ratio",
            "relora_prune_method",
            "relora_cpu_offload",
            "relora_steps",
            "relora_warmup_steps",
            "relora_anneal_steps",
            "lisa_step_interval",
            "lisa_layers_attribute",
            "jagged_restart_warmup_steps",
            "jagged_restart_anneal_steps",
            "eaft_alpha",
            "eaft_k",
            "scaling_softmax_factor",
            "scaling_softmax_bias",
            "pose_split_on_token_ids",
            "pose_max_context_len",
            "pose_num_chunks",
            "freeze_mm_modules",
            "image_size",
            "image_resize_algorithm",
            "dataset_shard_idx",
        ],
        NoEffect(OTHER),
    ),
    (&["rl"], NotYet("preference or reinforcement learning")),
    (&["reward_model", "process_reward_model"], NotYet("a reward model")),
    (&["relora"], NotYet("ReLoRA")),
    (&["lisa_n_layers"], NotYet("LISA")),
    (&["jagged_restart_steps"], NotYet("restarts of the learning rate")),
    (&["use_eaft"], NotYet("entropy-aware loss weights")),
    (&["scaling_softmax"], NotYet("a scaled softmax")),
    (&["use_pose"], NotYet("PoSE")),
    (
        &["unfrozen_parameters"],
        NotYet("some weights of the base alone to be trained"),
    ),
    (&["qat"], NotYet("training that foresees quantization")),
    (&["quantization"], NotYet("a quantization after training")),
    (
        &[
            "use_onebitllms",
            "model_quantization_config",
            "model_quantization_config_kwargs",
        ],
        NotYet("a base in another quantization"),
    ),
    (&["gptq", "gptq_disable_exllama"], NotYet("a GPTQ base")),
    (&["lora_model_dir"], NotYet("to go on from an adapter that is there")),
    (&["reinit_weights"], NotYet("a base with new weights (see `scratch`)")),
    (
        &[
            "model_config",
            "overrides_of_model_config",
            "model_kwargs",
            "overrides_of_model_kwargs",
            "rope_scaling",
        ],
        NotYet("a base with another configuration"),
    ),
    (
        &["tokens", "added_tokens_overrides", "fix_untrained_tokens"],
        NotYet("new tokens"),
    ),
    (&["trainer_cls"], NotYet("a trainer of one's own")),
    (&["eval_sequence_len"], NotYet("another length for evaluation")),
    (&["min_sample_len"], NotYet("short rows to be left out")),
    (&["dataset_shard_num"], NotYet("a part of the rows")),
    (
        &["landmark_attention", "xpos_rope", "s2_attention"],
        NotYet("another attention"),
    ),
    (&["plugins"], By(convert::plugins)),
    (&["special_tokens"], By(convert::special_tokens)),
    (&["chat_template"], By(convert::chat_template)),
    (&["chat_template_kwargs"], NotYet("arguments for the chat template")),
    (&["eot_tokens"], By(convert::eot_tokens)),
    (
        &["default_system_message"],
        NotYet("a system message in rows that have none"),
    ),
    (
        &["curriculum_sampling", "sample_packing_sequentially"],
        By(convert::sequential),
    ),
    (
        &["shuffle_merged_datasets", "shuffle_before_merging_datasets"],
        NoEffect("rows are drawn anew in each epoch (`shuffle`)"),
    ),
    (&["dataset_exact_deduplication"], As("drop_duplicates")),
    (
        &[
            "dataset_prepared_path",
            "skip_prepare_dataset",
            "num_dataset_shards_to_save",
            "preprocess_iterable",
        ],
        NoEffect(PREPARED),
    ),
    (&["pretraining_sample_concatenation"], NoEffect(OTHER)),
    (
        &["loss_watchdog_threshold", "loss_watchdog_patience"],
        NoEffect("a loss that is not a number stops the run"),
    ),
    (
        &["merge_lora", "merge_method"],
        NoEffect("an adapter is served beside its base, never merged"),
    ),
    (&["use_wandb"], By(convert::use_wandb)),
    (&["use_tensorboard"], By(convert::use_tensorboard)),
    (&["wandb_name"], As("run_name")),
    (&["wandb_mode"], By(convert::wandb_mode)),
    (
        &["wandb_watch", "wandb_log_model"],
        NoEffect("W&B is given losses and settings, not weights"),
    ),
    (
        &[
            "use_mlflow",
            "mlflow_tracking_uri",
            "mlflow_experiment_name",
            "mlflow_run_name",
            "hf_mlflow_log_artifacts",
            "use_comet",
            "comet_api_key",
            "comet_workspace",
            "comet_project_name",
            "comet_experiment_key",
            "comet_mode",
            "comet_online",
            "comet_experiment_config",
            "use_trackio",
            "use_otel_metrics",
            "otel_metrics_host",
            "otel_metrics_port",
            "use_swanlab",
            "swanlab_project",
            "swanlab_experiment_name",
            "swanlab_description",
            "swanlab_mode",
            "swanlab_workspace",
            "swanlab_api_key",
            "swanlab_log_model",
            "gradio_title",
            "gradio_share",
            "gradio_server_name",
            "gradio_server_port",
            "gradio_max_new_tokens",
            "gradio_temperature",
        ],
        NoEffect(TRACKER),
    ),
];

/// Returns every name, for near misses.
fn names() -> impl Iterator<Item = &'static str> {
    let listed = KEYS.iter().flat_map(|(names, _)| names.iter().copied());
    let own = SETTINGS.iter().map(|setting| setting.name);
    own.filter(|name| !KEYS.iter().any(|(names, _)| names.contains(name)))
        .chain(listed)
}

/// Returns what a name does.
pub(crate) fn rule(name: &str) -> Option<Rule> {
    let listed = KEYS.iter().find(|(names, _)| names.contains(&name));
    match listed {
        Some((_, rule)) => Some(*rule),
        // A setting's own name, unless it is listed because other programs give it other values.
        None => settings::find(name).map(|setting| As(setting.name)),
    }
}

/// Does what a key says. Faults are collected, so that all are told at once.
pub(crate) fn apply(draft: &mut Draft, field: &Field) {
    // Flags and steps are often written with dashes and capitals.
    let name = field.key.replace('-', "_");
    let Some(rule) = rule(&name).or_else(|| rule(&name.to_lowercase())) else {
        let fault = unknown(field, &name);
        return draft.fault(fault);
    };
    let field = Field {
        key: name,
        ..field.clone()
    };
    if let Err(fault) = follow(draft, &field, rule) {
        draft.fault(fault);
    }
}

pub(crate) fn follow(draft: &mut Draft, field: &Field, rule: Rule) -> Result<(), Fault> {
    let is_empty = field.node.value == Value::Null;
    match rule {
        NoEffect(why) => draft.no_effect(field, why),
        NotYet(_) if field.node.is_off() => draft.no_effect(field, "off, as it is here"),
        NotYet(what) => return Err(field.not_yet(what)),
        As(target) if is_empty => draft.unset(field, target),
        Lora(target) if is_empty => draft.unset(field, &format!("lora.{target}")),
        By(_) if is_empty => draft.unset(field, &field.key),
        As(target) => return as_setting(draft, field, target),
        Lora(target) => return lora::set(draft, field, target),
        By(read) => return read(draft, field),
    }
    Ok(())
}

/// Sets a setting to a value that is written as the setting takes it.
pub(crate) fn as_setting(draft: &mut Draft, field: &Field, target: &str) -> Result<(), Fault> {
    let setting = settings::find(target);
    let setting = setting.ok_or_else(|| field.refuse(Expected::new("nothing that is known")))?;
    let value = setting.read(&field.node).map_err(|mut expected| {
        if expected.hint.is_empty() {
            expected.hint = format!("`{target}`: {}", setting.help);
        }
        field.refuse(expected)
    })?;
    draft.set(field, target, value)
}

fn unknown(field: &Field, name: &str) -> Fault {
    let near = near_misses(name, names());
    let hint = match near.as_slice() {
        [] => {
            "`witness train --help` names the settings; keys of Transformers, PEFT and Axolotl are known too".to_owned()
        }
        near => {
            let near: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
            format!("did you mean {}?", near.join(" or "))
        }
    };
    let shown: String = field.label.chars().take(80).filter(|c| !c.is_control()).collect();
    Fault::new(
        Problem::UnknownKey,
        field.position,
        format!("`{shown}` is not a key of a recipe"),
        hint,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_name_occurs_once_and_leads_to_a_setting() {
        let mut seen = BTreeSet::new();
        for (names, rule) in KEYS {
            for name in *names {
                assert!(seen.insert(*name), "{name} is listed twice");
            }
            if let As(target) = rule {
                assert!(settings::find(target).is_some(), "{names:?} leads to {target}");
            }
        }
    }
}
