"""mini-r1's training forward and its exported checkpoints against transformers' DeepSeek-V3."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer

from recipes.mini_r1 import export
from recipes.mini_r1.drafts import unroll
from recipes.mini_r1.generate import BOS, opening
from recipes.mini_r1.model import Experts, MiniR1, initialise
from recipes.mini_r1.shape import Shape
from tests.models.five_ways import WAYS
from tests.models.tolerance import logits_tolerance
from tests.parity.reference_model import load_reference, reference_logits
from tribody.core.config import EngineConfig
from tribody.core.request import Chunk
from tribody.engine.model_executor import step_input
from tribody.loading import bundled
from tribody.loading.checkpoint import open_checkpoint
from tribody.memory.kv_store import KVStore
from tribody.models.load import load_model
from tribody.ops import native
from tribody.quality.held_out import bundled_file, read_items
from tribody.quality.logits import REFERENCE, LoadedModel
from tribody.text.deepseek_templates import R1
from tribody.text.tokenizer import Tokenizer as TextTokenizer

pytestmark = pytest.mark.parity

SHAPE = Shape(vocab_size=300, num_hidden_layers=3, max_position_embeddings=512)
TOKENS = [int(t) for t in np.random.default_rng(3).integers(0, 300, 150)]


@pytest.fixture(scope="module")
def model() -> MiniR1:
    """Random weights in BF16's range; biases that change the choice of experts."""
    model = MiniR1(SHAPE)
    initialise(model, 5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith("gate.weight"):
                parameter.mul_(4)
            parameter.copy_(parameter.bfloat16())
        for router in model.routers():
            router.e_score_correction_bias.normal_(0, 0.2, generator=generator)
    return model


@pytest.fixture(scope="module")
def root(model: MiniR1, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("mini")
    export.write(model, Tokenizer.from_str('{"version":"1.0","added_tokens":[],"normalizer":null,'
        '"pre_tokenizer":null,"post_processor":null,"decoder":null,"model":{"type":"BPE",'
        '"vocab":{"a":0},"merges":[]}}'), root, R1)  # fmt: skip
    return root


def test_training_forward_equals_transformers(model: MiniR1, root: Path) -> None:
    expected = reference_logits(load_reference(root / "mini-r1"), TOKENS)
    with torch.no_grad():
        ours = model.logits(model.trunk(torch.tensor([TOKENS])))[0].numpy()
    tolerance = logits_tolerance(open_checkpoint(root / "mini-r1").config, expected)
    difference = np.abs(ours - expected).max()
    print(f"{difference:.2e} of {tolerance:.2e}")
    assert difference <= tolerance


def test_padding_rows_and_room_change_nothing(model: MiniR1, monkeypatch) -> None:
    """A sequence's logits do not depend on what is batched with it or on the experts' rooms."""
    ids = torch.tensor([TOKENS, TOKENS[::-1]])
    with torch.no_grad():
        both = model.logits(model.trunk(ids))
        monkeypatch.setattr(Experts, "ROOM", 7)
        alone = model.logits(model.trunk(ids[1:]))
    assert torch.allclose(both[1], alone[0], atol=1e-4)


def test_gradients_equal_those_of_transformers(model: MiniR1, root: Path) -> None:
    """The scattered experts' own backward: every gradient of a loss over the trunk."""
    reference = load_reference(root / "mini-r1")
    ids = torch.tensor([TOKENS])
    reference(ids, labels=ids, use_cache=False).loss.backward()
    model.zero_grad(set_to_none=True)
    logits = model.logits(model.trunk(ids))[0, :-1]
    torch.nn.functional.cross_entropy(logits, ids[0, 1:]).backward()
    theirs = {name: p.grad for name, p in reference.named_parameters()}
    layer = "model.layers.1.mlp"
    own = dict(model.named_parameters())
    pairs = [(own["layers.1.self_attn.q_a_proj.weight"].grad,
              theirs["model.layers.1.self_attn.q_a_proj.weight"]),
             (own["layers.1.mlp.gate.weight"].grad, theirs[f"{layer}.gate.weight"]),
             (own["layers.1.mlp.experts.down"].grad.transpose(1, 2),
              theirs[f"{layer}.experts.down_proj"]),
             (own["layers.1.mlp.experts.gate_up"].grad.transpose(1, 2),
              theirs[f"{layer}.experts.gate_up_proj"])]  # fmt: skip
    for ours, expected in pairs:
        assert expected.abs().max() > 0
        assert torch.allclose(ours, expected, atol=1e-5 * float(expected.abs().max()) + 1e-9)


def test_the_engine_reads_both_checkpoints(model: MiniR1, root: Path) -> None:
    """BF16 exactly as trained; FP8 exactly as its codes times their scales."""
    with torch.no_grad():
        trained = model.logits(model.trunk(torch.tensor([TOKENS])))[0].numpy()
    for name in ("mini-r1", "mini-r1-fp8"):
        checkpoint = open_checkpoint(root / name)
        tolerance = logits_tolerance(checkpoint.config, trained)
        loaded = load_model(checkpoint, native.OPS, "float32")
        logits = WAYS["whole"](loaded, TOKENS)
        difference = np.abs(logits - trained).max()
        if name == "mini-r1":
            assert difference <= tolerance
        else:
            assert tolerance < difference < 0.5 * np.abs(trained).max()


def test_the_shipped_checkpoint_gives_the_logits_of_transformers() -> None:
    """Learned weights, in three ways of computing, on items of every task with the reference
    thinking and answer; the longest have more than 1,024 tokens."""
    folder = bundled.locate("mini-r1")
    checkpoint = open_checkpoint(folder)
    tokenizer = TextTokenizer.from_source(checkpoint.tokenizer_source)
    reference, model = load_reference(folder), load_model(checkpoint, native.OPS, "float32")
    engine = LoadedModel(EngineConfig(model_path=str(folder)), REFERENCE)
    path = bundled_file()
    assert path is not None
    items = {item.task: item for item in read_items(path) if item.split == "held_out"}
    lengths = []
    for task, item in items.items():
        text = (
            f"{BOS}{opening(item.prompt, thinking=True)}{item.thinking}\n</think>\n\n{item.answer}"
        )
        ids = tokenizer.encode(text, add_special_tokens=False)
        lengths.append(len(ids))
        expected = reference_logits(reference, ids)
        tolerance = logits_tolerance(checkpoint.config, expected)
        given = {"engine": np.concatenate([part.copy() for _, part in engine.logits(ids, 0)])}
        if len(ids) < 200:
            given |= {way: WAYS[way](model, ids) for way in ("whole", "token_by_token")}
        for way, logits in given.items():
            difference = np.abs(logits - expected).max()
            print(f"{task} {way}: {difference:.2e} of {tolerance:.2e}")
            assert difference <= tolerance, (task, way)
    assert len(lengths) >= 12
    assert max(lengths) > 1024


def test_the_mtp_module_equals_one_made_of_transformers_layers(model: MiniR1, root: Path) -> None:
    """The module's decoder layer in transformers' own class, its projection by hand."""
    folder = root / "mini-r1"
    config = transformers.AutoConfig.from_pretrained(folder)
    layers = config.num_hidden_layers
    config.num_hidden_layers = layers + 1  # its extra layer reads the module's names
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    ids = torch.tensor([TOKENS])
    with torch.no_grad():
        hidden = model.trunk(ids)
        expected = mtp_hidden(reference, load_file(folder / "model.safetensors"), hidden, ids)
        ours = model.draft(hidden, ids)
    assert expected.abs().max() > 0.1
    assert torch.allclose(ours, expected, atol=2e-5 * float(expected.abs().max()))


def test_the_engines_module_gives_the_logits_of_the_training_forward(
    model: MiniR1, root: Path
) -> None:
    """Given h_t after the final norm, which is how the engine reads it; prompt and generated."""
    checkpoint = open_checkpoint(root / "mini-r1")
    loaded = load_model(checkpoint, native.OPS, "float32", drafter=True)
    assert loaded.drafter is not None
    ids = torch.tensor([TOKENS])
    with torch.no_grad():
        hidden = model.norm(model.trunk(ids), torch.float32)
        expected = model.draft_logits(model.draft(hidden, ids))[0].numpy()
        head = model.lm_head.weight.numpy()
    count, pages = len(TOKENS) - 1, [4, 1, 2]
    trunk = KVStore(loaded.kv_layout, 5, "float32")
    loaded.forward(step_input([Chunk(0, TOKENS[:-1], 0, pages, False)], np.arange(count)), trunk)
    states = loaded.drafter.hidden(np.arange(count))
    tolerance = logits_tolerance(checkpoint.config, expected)
    for cut in (count, 40):
        own = KVStore(loaded.drafter.kv_layout, 5, "float32")
        parts = [range(cut), *(range(row, row + 1) for row in range(cut, count))]
        logits = []
        for part in parts:
            following = TOKENS[part.start + 1 : part.stop + 1]
            chunk = Chunk(0, following, part.start, pages, len(part) == 1)
            step = step_input([chunk], np.arange(len(part)))
            (tokens,), normed = loaded.drafter.draft(step, states[part.start : part.stop], 1, own)
            logits.append(normed @ head.T)
            assert tokens.tolist() == logits[-1].argmax(axis=1).tolist()
        difference = np.abs(np.concatenate(logits) - expected).max()
        print(f"cut {cut}: {difference:.2e} of {tolerance:.2e}")
        assert difference <= tolerance


def test_later_passes_are_those_that_the_module_is_trained_in(model: MiniR1, root: Path) -> None:
    """The engine's guesses, given back to the training forward as the text that follows."""
    checkpoint = open_checkpoint(root / "mini-r1")
    loaded = load_model(checkpoint, native.OPS, "float32", drafter=True)
    assert loaded.drafter is not None
    count, passes, pages = len(TOKENS) - 1, 4, [4, 1, 2]
    trunk = KVStore(loaded.kv_layout, 5, "float32")
    own = KVStore(loaded.drafter.kv_layout, 5, "float32")
    loaded.forward(step_input([Chunk(0, TOKENS[:-1], 0, pages, False)], np.arange(count)), trunk)
    step = step_input([Chunk(0, TOKENS[1:], 0, pages, False)], np.array([count - 1]))
    tokens, state = loaded.drafter.draft(step, loaded.drafter.hidden(np.arange(count)), passes, own)
    guesses = tokens[:, 0].tolist()
    ids = torch.tensor([TOKENS + guesses[:-1]])
    with torch.no_grad():
        logits = [part[0, count - 1] for part in unroll(model, model.trunk(ids), ids, passes)]
        head = model.lm_head.weight.numpy()
    assert guesses == [int(part.argmax()) for part in logits]
    expected = logits[-1].numpy()
    assert np.abs(state[0] @ head.T - expected).max() <= logits_tolerance(
        checkpoint.config, expected
    )


def mtp_hidden(reference, tensors, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    trunk = reference.model
    prefix = f"model.layers.{len(trunk.layers) - 1}"

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = tensors[f"{prefix}.{name}.weight"].float()
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * weight

    embedded = tensors[f"{prefix}.embed_tokens.weight"].float()[ids[:, 1:]]
    joined = torch.cat((norm(embedded, "enorm"), norm(hidden[:, :-1], "hnorm")), -1)
    x = joined @ tensors[f"{prefix}.eh_proj.weight"].float().T
    length = x.shape[1]
    positions = torch.arange(length)[None]
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None]
    angles = trunk.rotary_emb(x, positions)
    return trunk.layers[-1](
        x, attention_mask=mask, position_ids=positions, position_embeddings=angles
    )
