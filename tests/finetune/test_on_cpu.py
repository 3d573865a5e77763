"""A model that is computed in fewer passes has the outputs and the gradients that PEFT and transformers give it."""

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from arislab.errors import PrerequisiteError, TrainingError
from arislab.finetune import Settings, on_cpu, training
from arislab.finetune.meter import Meter
from arislab.finetune.shared_prefix import SharedPrefix, n_shared
from arislab.finetune.trainer import _caps_logits, sums

SIZES = {"vocab_size": 97, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "max_position_embeddings": 64}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, **HEADS),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, **HEADS),  # biases
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, **HEADS),  # norms of queries and keys
    "gemma3": lambda: transformers.Gemma3TextConfig(**SIZES, **HEADS, sliding_window=40),  # norms keep factor - 1
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, **HEADS, attn_logit_softcapping=0.5),  # caps its scores
    "lfm2": lambda: transformers.Lfm2Config(  # convolutions, which look at the tokens before
        **SIZES, **HEADS, layer_types=["conv", "full_attention", "conv"]
    ),
}
SHARED, ROWS, LONGEST = 9, 3, 22


@pytest.fixture(params=CONFIGS)
def family(request):
    return request.param


@pytest.fixture
def model(family):
    """With an adapter that adds something, and norms that are no ones."""
    torch.manual_seed(5)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[family]())
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(model, config).train()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.1)
            elif value.dim() == 1:
                value.add_(torch.randn_like(value) / 4)
    return model


@pytest.fixture
def batch():
    """Rows of several lengths that begin alike, padded on the right; the second answer is a single token."""
    torch.manual_seed(6)
    ids = torch.randint(3, 97, (ROWS, LONGEST))
    ids[:, :SHARED] = ids[0, :SHARED]
    ids[:, SHARED] = torch.tensor([3, 4, 5])  # the first that differs
    labels = ids.clone()
    for row, (n_prompt, n) in enumerate(((14, 22), (12, 13), (16, 20))):
        labels[row, :n_prompt], labels[row, n:], ids[row, n:] = -100, -100, 0
    return ids, labels


def gradients(model, ids, labels, hidden=None, shared=0):
    """The loss of the trained tokens, and the gradient of each weight of the adapter."""
    model.zero_grad()
    core = model.get_base_model()
    states = core.get_decoder()(input_ids=ids, use_cache=False)[0] if hidden is None else hidden
    logits = core.get_output_embeddings()(states)[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, shared + 1 :])
    loss.backward()
    return loss.item(), {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}


def apart(some, others):
    """The largest difference of two gradients, relative to their length."""
    assert set(some) == set(others)
    return max(float((some[name] - others[name]).norm() / others[name].norm()) for name in some)


def test_fewer_passes_give_the_loss_and_the_gradients_of_peft(model, batch, monkeypatch):
    loss, slow = gradients(model, *batch)
    monkeypatch.setattr(on_cpu, "SMALL_BYTES", 0)
    on_cpu.speed_up(model)
    replaced = [type(module).__name__ for module in model.modules() if "forward" in vars(module)]
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    assert sum(name.endswith("RMSNorm") for name in replaced) == len(norms) > 6
    assert "Linear" in replaced
    fast_loss, fast = gradients(model, *batch)
    assert fast_loss == pytest.approx(loss, rel=1e-5)
    assert apart(fast, slow) < 1e-4


def test_a_small_model_keeps_its_norms(model):
    on_cpu.speed_up(model)
    assert not any("forward" in vars(m) for m in model.modules() if type(m).__name__.endswith("RMSNorm"))


def test_a_base_in_bfloat16_is_as_near_as_bfloat16_is(model, batch, monkeypatch):
    loss, exact = gradients(model, *batch)
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    on_cpu.speed_up(model, bfloat16=True)
    kinds = {value.dtype for name, value in model.named_parameters() if "base_layer.weight" in name}
    assert kinds == {torch.bfloat16}
    rounded_loss, rounded = gradients(model, *batch)
    assert not any(torch.equal(rounded[name], exact[name]) for name in exact)  # the loss alone may be equal by chance
    assert rounded_loss == pytest.approx(loss, rel=1e-2)
    assert {value.dtype for value in rounded.values()} == {torch.float32}
    # 8 bits of each number in a product: 2^-9 is .002, and there are seven products a layer
    flat, other = (torch.cat([each[name].flatten() for name in exact]) for each in (rounded, exact))
    assert torch.nn.functional.cosine_similarity(flat, other, dim=0) > 0.999
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters() if name in before)


def test_a_norm_of_another_kind_is_left_alone(monkeypatch):
    class HalfRMSNorm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8), requires_grad=False)
            self.eps = 1e-6

        def forward(self, x):
            return x * (x[..., :4].pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight

    monkeypatch.setattr(on_cpu, "SMALL_BYTES", 0)
    model = torch.nn.Sequential(HalfRMSNorm(), torch.nn.LayerNorm(8))
    on_cpu.speed_up(model)
    assert not any("forward" in vars(module) for module in model)


def test_a_norm_that_is_trained_is_left_alone(monkeypatch):
    monkeypatch.setattr(on_cpu, "SMALL_BYTES", 0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), LlamaRMSNorm(4))
    on_cpu.speed_up(model)
    assert "forward" not in vars(model[1])


LlamaRMSNorm = transformers.models.llama.modeling_llama.LlamaRMSNorm
KNOWN = ("llama", "qwen2", "qwen3", "gemma3")


def test_a_common_part_that_is_read_once_gives_the_same_loss_and_gradients(model, batch, family):
    ids, labels = batch
    sharing = SharedPrefix(model.get_base_model())
    shared = sharing.length(ids, labels)
    assert shared == (SHARED if family in KNOWN else 0), "caps and convolutions are not known, and are found out"
    if not shared:
        return
    loss, whole = gradients(model, ids, labels)
    hidden = sharing.hidden(ids, shared)
    assert hidden.shape == (ROWS, LONGEST - SHARED, 48)
    packed_loss, packed = gradients(model, ids, labels, hidden, shared)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert apart(packed, whole) < 1e-4
    again, _ = gradients(model, ids, labels)
    assert again == loss, "attention is the ordinary one again"


@pytest.mark.parametrize("family", ["gemma3"])
def test_rows_that_are_longer_than_a_window_are_read_whole(model, batch, family):
    ids, labels = (torch.cat([part, part[:, -1:].expand(-1, 30)], dim=1) for part in batch)
    sharing = SharedPrefix(model.get_base_model())
    assert n_shared(ids, labels) == SHARED
    assert sharing.length(ids, labels) == 0
    assert sharing.length(*batch) == SHARED


def test_what_is_shared_ends_before_the_last_token_of_the_shortest_prompt(batch):
    ids, labels = batch
    ids[:] = ids[0]
    assert n_shared(ids, labels) == 11  # 12 tokens of the second prompt, of which the last says what comes next
    assert n_shared(ids[:1], labels[:1]) == 0
    differs = ids.clone()
    differs[1, 2] += 1
    assert n_shared(differs, labels) == 0, "2 of 22 tokens are not worth it"
    differs[1, 0] += 1
    assert n_shared(differs, labels) == 0


def test_with_dropout_nothing_is_shared_whatever_a_first_batch_would_say(batch):
    config = transformers.LlamaConfig(**SIZES, **HEADS, attention_dropout=0.1)  # without a module of its own
    model = transformers.AutoModelForCausalLM.from_config(config).eval()  # in which nothing is dropped
    assert SharedPrefix(model).length(*batch) == 0
    config.attention_dropout = 0.0
    assert SharedPrefix(transformers.AutoModelForCausalLM.from_config(config).eval()).length(*batch) == SHARED


@pytest.mark.parametrize("family", ["qwen2"])
def test_a_layer_with_a_bias_rounds_as_recorded_adapters_did(model):
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    rows, base = torch.randn(40, 48), layer.base_layer
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    on_cpu.speed_up(model)
    expected = torch.addmm(base.bias, rows, base.weight.t()).addmm_(rows @ a.t(), (b * 2).t().contiguous())
    assert torch.equal(layer(rows), expected)


@pytest.mark.parametrize("family", ["llama"])
def test_a_model_may_change_what_a_layer_gave_in_place(model):
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    on_cpu.speed_up(model)
    x = torch.randn(2, 5, 48, requires_grad=True)
    layer(x).mul_(2).sum().backward()  # as Gemma 3n does
    once = layer.lora_A["default"].weight.grad.clone()
    layer.lora_A["default"].weight.grad = None
    (layer(x) * 2).sum().backward()
    assert torch.equal(layer.lora_A["default"].weight.grad, once)


def test_bfloat16_without_a_layer_that_can_be_kept_in_it_is_refused():
    config = transformers.GPT2Config(n_embd=48, n_layer=1, n_head=4, vocab_size=97)  # its layers are Conv1D
    lora = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = get_peft_model(transformers.AutoModelForCausalLM.from_config(config), lora)
    assert on_cpu.speed_up(model) == {"layers": 0, "norms": 0}
    with pytest.raises(TrainingError, match=r"no layer of this model is a plain linear one.*use lora"):
        on_cpu.speed_up(model, bfloat16=True)


def test_what_is_computed_otherwise_is_recorded_of_larger_models_alone(model, family, monkeypatch):
    made = SimpleNamespace(agrees=True, sharing=None, replaced=on_cpu.speed_up(model))
    assert sums(made) == {}, "a small model's trainings keep their ids"
    monkeypatch.setattr(on_cpu, "SMALL_BYTES", 0)
    made.replaced, made.sharing = on_cpu.speed_up(model), SharedPrefix(model.get_base_model())
    recorded = sums(made)["sums"]
    assert recorded["layers"] >= 12
    assert recorded["norms"] >= 6
    assert (recorded["head_where_trained"], recorded["shared_prefix"]) == (True, False)
    assert _caps_logits(model.config) == (family == "gemma2"), "30 of Gemma 2, which its first logits do not reach"


def test_what_was_found_out_goes_on_with_a_checkpoint(tmp_path):
    def meter(**trainer):
        how = {"progress": tmp_path / "progress", "parent": {}, "n_trained_tokens": 1, "patience": 0}
        return Meter(SimpleNamespace(**trainer), None, **how)

    for found in (True, False, None):
        meter(agrees=found, sharing=SimpleNamespace(is_right=found)).remember(tmp_path)
        again = meter(agrees=None, sharing=SimpleNamespace(is_right=None))
        again.recall(tmp_path)
        assert (again.trainer.agrees, again.trainer.sharing.is_right) == (found, found)
        meter(agrees=None, sharing=None).recall(tmp_path)


def test_bfloat16_is_refused_where_it_is_slower(monkeypatch, tmp_path):
    settings = Settings(base_model="tiny", folder=tmp_path, method="bf16-lora")
    monkeypatch.setattr(training, "multiplies_bfloat16", lambda: False)
    with pytest.raises(PrerequisiteError, match=r"needs a CPU that multiplies bfloat16.*use method 'lora'"):
        training.check(settings)


def test_models_are_not_changed_by_looking(model):
    before = copy.deepcopy(model.state_dict())
    on_cpu.speed_up(model)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
