"""What random programs are made of: the modules that they find, and tables of statements to draw from. See `programs.py`."""

from __future__ import annotations

PRELUDE = """
import collections, copy, functools
import jax, jax.numpy as jnp
from flambeau.core.module import Module
from flambeau.core.cell import Buffer, Parameter
from flambeau.core.random import Generator, manual_seed, next_key
from flambeau.nn import ModuleDict, ModuleList, ParameterList, Sequential, init
from flambeau.nn.functional import dropout
from flambeau.optim import Adam
from flambeau.transforms.functional_call import functional_call

class Boom(Exception):
    pass

class Config:
    def __init__(self):
        self.scale, self.name, self.seen = 0.5, "small", []

class World:
    def __init__(self, net, other):
        self.net, self.other = net, other
        self.optimizer = None if net is None else Adam(net.parameters(), lr=0.1)

Pair = collections.namedtuple("Pair", "first second")

class Affine(Module):
    def __init__(self, scale=0.7):
        super().__init__()
        self.weight = Parameter(scale * jnp.array([1.0, -0.5]))
    def forward(self, v):
        self.last_input = v
        return v * self.weight

def noise(generator=None):
    return jax.random.key_data(next_key(generator)) % 1000 / 1000.0

def keep_output(module, args, output):
    module.kept = output

def count_calls(module, args):
    module.mean = module.mean + 1

def scale_output(module, args, output):
    return output * module.bias

def halve(module):
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data * 0.5
"""

# What a module may have besides its parameters and `mean`; it has what the program's statements name.
FEATURES = {
    "var": 'self.register_buffer("var", jnp.array([0.5, 1.5]))',
    "count": 'self.register_buffer("count", jnp.array(0, jnp.int32), persistent=False)',
    "h": "self.h = jnp.array([0.1, 0.2])",
    "g": "self.g = jnp.array([0.3, 0.1])",
    "trace": "self.trace = []",
    "history": "self.history = [jnp.array([0.3, 0.4])]",
    "seen": 'self.seen = {"a": jnp.array([0.5, 0.6]), "inner": {}}',
    "fresh": "self.fresh = {}",
    "window": "self.window = collections.deque(maxlen=2)",
    "state": "self.state = (jnp.array([0.0, 0.1]), jnp.ones(2))",
    "pair": 'self.pair = Pair(jnp.ones(2), "name")',
    "nested": "self.nested = [[], [jnp.array([0.7, 0.8])]]",
    "mixed": 'self.mixed = [(jnp.ones(2), "a"), 3]',
    "recent": "self.recent = collections.deque([jnp.ones(2)], maxlen=2)",
    "tags": 'self.tags = {"new"}',
    "config": "self.config = Config()",
    "calls": "self.calls = 0",
    "mode": 'self.mode = "fresh"',
    "kids": "self.kids = [Affine(0.6), Affine(0.8)]",
    "generator": "self.generator = Generator()",
    "inner": "self.inner = Child()",
    "twin": "self.twin = Child()",
    "layers": "self.layers = ModuleList([Child(), Child(), Child()])",
    "choices": 'self.choices = ModuleDict({"a": Child(), "b": Child()})',
    "weights": "self.weights = ParameterList([jnp.array([0.9, 1.1]), jnp.array([0.2, 0.1])])",
}
CHILDREN = ("inner", "twin", "layers", "choices")

VALUES = "v v v x {m}.weight {m}.mean {n}.mean v*0.5 jnp.tanh(v) jnp.ones(2) jnp.sum(v)".split()

# `{m}` and `{n}` are modules of any class, `{net}` one with children, `{e}` an array.
STATEMENTS = """
v = jnp.tanh(v * {m}.weight + {m}.bias)
v = v * {m}.weight
v = v + {m}.mean
v = v + 0.1 * sum(p.sum() for p in {m}.parameters())
v = v + 0.1 * sum(b.sum() for b in {m}.buffers())
v = v + 0.1 * noise()
v = v + 0.1 * noise({m}.generator)
v = dropout(v, 0.5, {m}.training)
{m}.mean = 0.9 * {m}.mean + 0.1 * v
{m}.mean = {e}
{m}.mean = {m}.var = {e}
{m}.mean, {m}.var = {m}.var, {m}.mean
{m}.mean, {n}.mean = {n}.mean, {m}.mean
{m}.get_buffer("mean").copy_({e})
{m}.count += 1
{m}.count = {m}.count + v.shape[-1]
{m}.register_buffer("late", {e}) if not hasattr({m}, "late") else None
{m}.late = Buffer({e})
{m}.h = {e}
{m}.h = {m}.h * 0.5 + {e}
{m}.h, {m}.g = {m}.g, {m}.h
{m}.h = {m}.g = {e}
{m}.h = {n}.g = {e}
{m}.fresh = {e}
{m}.fresh = getattr({m}, "fresh", 0.0) + {e}
del {m}.h
{m}.h = None
{m}.h = 3
{m}.h = [{e}]
{m}.h = {n}.mean
{m}.weight = {m}.weight - 0.1 * v.sum()
{m}.weight = {m}.bias * 1.5
{m}.get_parameter("weight").data = {m}.weight * 0.5 + {n}.bias
{m}.weight = Parameter(0.5 * {m}.weight)
{m}.extra = Parameter(jnp.ones(2))
{m}.extra = Parameter(0.5 * ({e})) if not hasattr({m}, "extra") else {m}.extra
{m}.bias = {m}.weight
{m}.bias = {n}.weight
{m}.bias = {n}.bias
{m}.alias = {n}.weight
{m}.weight, {n}.weight = {n}.weight, {m}.weight
kept = {m}.weight; {m}.weight = {n}.weight; v = v * {m}.weight; {m}.weight = kept
{m}.bias = Affine().bias
{m}.get_parameter("bias").requires_grad_(False)
{m}.requires_grad_(True)
{m}.apply(halve)
{m}.best = {m}.state_dict()
{m}.load_state_dict({m}.best, strict=False)
{m}.best = dict({m}.named_buffers(), best={m}.get_parameter("weight"))
v = v + sum(jnp.sum(array) for array in {m}.state_dict().values())
{m}.lazy = copy.copy(other)
{m}.register_buffer("late", None)
setattr({m}, "weight", None)
[b.copy_(0.5 * b) for b in {m}.buffers() if b.dtype == v.dtype]
{m}.load_state_dict({m}.state_dict())
{m}.lazy = Affine()
{m}.lazy = Affine() if not hasattr({m}, "lazy") else {m}.lazy
{m}.lazy = copy.deepcopy(other)
del {m}.lazy
v = v * {m}.lazy.weight
v = Affine()(v)
v = Affine(noise())(v)
{m}.register_module("lazy", Affine(0.9)) if not hasattr({m}, "lazy") else None
{m}.trace = []
{m}.trace.append({e})
{m}.trace.append(v.shape)
{m}.trace.append("seen")
{m}.trace.extend([{e}, v])
{m}.trace += [{e}]
{m}.history.append({e})
{m}.history = {m}.history + [{e}]
{m}.history = {m}.history[-2:]
{m}.history = {n}.history
{m}.history, {n}.history = {n}.history, {m}.history
{m}.history, {m}.nested[0] = {m}.nested[0], {m}.history
{m}.nested.reverse()
{m}.nested[0], {n}.nested[1] = {n}.nested[1], {m}.nested[0]
{m}.seen, {n}.seen = {n}.seen, {m}.seen
{m}.seen["c"], {m}.history = {m}.history, {m}.seen.get("c", [])
{m}.history.clear()
{m}.history.insert(0, {e})
{m}.history.reverse()
{m}.history[-1] = {e}
{m}.history[:] = [{e}]
{m}.history.append({m})
del {m}.history[0]
v = v + 0.1 * len({m}.history)
v = v + 0.1 * sum(jnp.sum(item) for item in {m}.history)
v = v + {m}.history[-1]
v = v + {m}.history.pop()
v = v + {m}.history.pop(0) if {m}.history else v
kept = {m}.history; kept.append({e})
{m}.seen["a"] = {e}
{m}.seen["a"] = {m}.seen["a"] + {e}
{m}.seen["b"] = {m}.seen.get("b", 0.0) + {e}
{m}.seen["calls"] = {m}.seen.get("calls", 0) + 1
{m}.seen.setdefault("c", []).append({e})
{m}.seen["inner"]["d"] = {e}
{m}.seen = {{"a": {e}, "inner": {{}}}}
{m}.seen.update({{"e": {e}}}, f={e})
{m}.seen.pop("a", None)
v = v + {m}.seen["a"]
v = v + 0.1 * sum(jnp.sum(item) for item in {m}.seen.values() if isinstance(item, jax.Array))
{m}.fresh["l"] = {e}
{m}.fresh["l"] = {m}.fresh.get("l", 1.0) * {e}
{m}.fresh[f"{{len({m}.fresh)}}"] = {e}
v = v + 0.1 * len({m}.fresh)
{m}.window.append({e})
v = v + 0.1 * sum(jnp.sum(item) for item in {m}.window)
v = v + 0.1 * len({m}.trace)
{m}.state = ({e}, v)
{m}.state = ({m}.state[1], {e})
{m}.state = ({m}.state[0], [{e}])
v = v + {m}.state[0]
{m}.pair = {m}.pair._replace(first={e})
v = v + {m}.pair.first
{m}.nested[0].append({e})
{m}.nested[1].append({e})
{m}.nested.append([{e}])
{m}.nested[0] = {m}.nested[1]
v = v + {m}.nested[1][0]
{m}.mixed.append(({e}, [{e}]))
v = v + {m}.mixed[0][0]
{m}.mixed[-1][1].append({e})
{m}.recent.append({e})
v = v + {m}.recent[-1]
{m}.tags.add("used")
{m}.tags.add(len({m}.tags))
v = v + len({m}.tags)
{m}.last_shape = v.shape
{m}.calls += 1
v = v * (1 + {m}.calls % 2)
{m}.mode = "used"
{m}.mode = "bad"
del {m}.mode
{m}.mode = None
v = v + {m}.config.scale
v = {m}.kids[0](v)
{m}.kids.append(Affine())
{m}.kids = [{m}.kids[-1], {m}.kids[0]]
{m}.train()
{m}.eval()
{m}.train(not {m}.training)
manual_seed(7)
{m}.generator.manual_seed(5)
{net}.inner, {net}.twin = {net}.twin, {net}.inner
{net}.twin = {net}.inner
{net}.inner = Child()
{net}.layers.append(Child())
{net}.layers.insert(0, Child())
{net}.layers.pop(0)
del {net}.layers[-1]
{net}.layers = {net}.layers[1:]
{net}.layers[0] = {net}.layers[-1]
{net}.get_submodule("layers.1").mean = {e}
{net}.extra_layers = ModuleList({net}.layers)
for layer in {net}.layers: layer.mean = {e}
{net}.inner.weight = {net}.weight
v = {net}.choices["a" if {m}.training else "b"](v)
for choice in {net}.choices.values(): v = choice(v)
{net}.choices["c"] = Child()
{net}.choices["a"] = {net}.choices["b"]
{net}.choices["a"], {net}.choices["b"] = {net}.choices["b"], {net}.choices["a"]
{net}.choices.pop("b")
{net}.choices.update({{"b": {net}.inner}})
v = v * {m}.weights[0] + {m}.weights[-1]
{m}.weights[0] = 0.5 * {m}.weights[1]
{m}.weights[0], {m}.weights[1] = {m}.weights[1], {m}.weights[0]
{m}.weights.append({e})
{m}.weights.append({n}.weight)
{m}.weights[0] = {n}.bias
init.constant_({m}.weight, 0.5)
{m}.register_forward_hook(keep_output).remove()
if {m}.mode == "bad": raise Boom
""".strip().splitlines()

# Only in the `forward` of what is called from outside: an object tells nobody that it changes, so those that hang on a module,
# or below it, are looked at when it is called.
OBJECTS = """
self.config.scale += 0.5
self.config.name = "used"
self.config.last = v.shape
v = v + self.config.scale
v = v + len(getattr(self.config, "last", ()))
self.config.seen.append(v.shape)
""".strip().splitlines()

# Not inside of a leaf module, which may be the one that `{f}` or `lazy` is: it would call itself for ever.
CALLS = """
v = {f}(v)
v = {f}({f}(v))
for module in ({f}, {f}): v = module(v)
v = copy.deepcopy({f})(v)
v = {m}.lazy(v)
""".strip().splitlines()

# Only where the whole function is under way: `{f}` is a module that may be called here.
NESTED = """
v = step({f}, v)
v = v + grad(loss_of)({f}, v)["weight"]
v = v + grad(loss_of, argnums=1)({f}, v)
v = v + jit(grad(loss_of, argnums=1))({f}, v)
v = v + grad(jit(loss_of), argnums=1)({f}, v)
loss, (g, u) = value_and_grad(loss_of, argnums=(0, 1))({f}, v); v = v + loss * u + g["weight"]
grads = grad(loss_of)({f}, v); [p.copy_(p - 0.1 * grads[name]) for name, p in {f}.named_parameters() if name in grads]
v = v + grad(lambda p: jnp.sum(p.data * v))({f}.get_parameter("weight"))
v = v + jax.tree.leaves(jax.tree.map(lambda a: 0.5 * a, grad(loss_of)({f}, v)))[0]
v = jit({f})(v)
v = checkpoint({f})(v)
v = grad(jit(lambda v: jnp.sum({f}(v) ** 2)))(v)
v = scan_layers({net}.layers, v)
v = scan_layers({net}.layers, v, checkpoint=True)
v = scan_layers({net}.layers, v, unroll=True)
v = scan_layers([{net}.layers[0], {f}, *{net}.layers], v)
v = v + grad(lambda v: jnp.sum(scan_layers({net}.layers, v) ** 2))(v)
v = jit(lambda v: scan_layers({net}.layers, v))(v)
v = {net}.layers[1](v)
for layer in reversed({net}.layers): v = layer(v)
v = scan_layers({net}.layers[:2], v)
v = scan_layers([Child(), Child()], v)
v = Sequential(*{net}.layers)(v)
v = Sequential(*{net}.layers).scanned()(v)
v = v + ruled_back({f}, v)
v = v + ruled_forth({f}, v)
v = v + grad(ruled_back, argnums=1)({f}, v)
v = v + jit(grad(ruled_forth, argnums=1))({f}, v)
v = v + grad(ruled_back)({f}, v)["weight"]
optimizer.step(grad(loss_of)({net}, v))
optimizer.load_state_dict(optimizer.state_dict())
optimizer.param_groups[0]["lr"] *= 0.5
optimizer.param_groups[0]["lr"] = 0.1 * jnp.abs(jnp.sum(v))
v = v + optimizer.param_groups[0]["lr"]
optimizer.step(jit(grad(loss_of))({f}, v))
with leaving_nothing: eval_shape({f}, v)
v = functional_call({f}, {{"weight": 0.5 * {f}.weight}}, v)
v, given = functional_call({f}, {{"mean": v[..., :2].sum() + {f}.mean}}, v, return_state=True); v = v + given["mean"]
v = v + grad(lambda weight: jnp.sum(functional_call({f}, {{"weight": weight}}, v) ** 2))({f}.weight)
v = all_of(ensemble(), v)
crew = ensemble(); v = all_of(crew, v) + all_of(crew, 0.5 * v)
v = v + grad(lambda v: jnp.sum(all_of(ensemble(), v) ** 2))(v)
""".strip().splitlines()

BLOCKS = """
if {m}.training:
for _ in range(2):
if hasattr({m}, "late"):
if {m}.mode == "fresh":
""".strip().splitlines()

FUNCTIONS = """
v = v + grad(local)(v)
v = v + jit(grad(local))(v)
v = v + jit(local)(v)
v = v + grad(jit(local))(v)
v = v + local(v)
v = v + checkpoint(local)(v)
v = v + grad(checkpoint(local))(v)
v = v + checkpoint(grad(local))(v)
v = v + jacrev(local)(v)
v = v + jacfwd(checkpoint(local))(v)
v = v + jvp(local, (v,), (v,))[1]
v = v + linearize(local, v)[1](v)
v = v + vjp(local, v)[1](jnp.ones(()))[0]
v = v + hessian_sum(local)(v)
v = v + vmap(lambda y: local(v) * y, randomness="same")(jnp.arange(1.0, 4.0)).sum()
v = v + grad(lambda v: vmap(lambda y: local(v) * y, randomness="same")(jnp.arange(1.0, 3.0)).sum())(v)
v = v + vmap(lambda y: grad(local)(v).sum() * y, randomness="same")(jnp.arange(1.0, 3.0)).sum()
v = v + scan(lambda c, y: (c + vmap(lambda z: local(v) * z, randomness="same")(y).sum(), c), 0.5, jnp.ones((2, 2)))[0]
with leaving_nothing: eval_shape(local, v)
with leaving_nothing: eval_shape(grad(local), v)
v = v + map(lambda y: local(v * y), jnp.arange(1.0, 4.0)).sum()
v = v + scan(lambda c, y: (0.5 * c + 0.1 * local(v * y), c), jnp.array(0.5), jnp.arange(1.0, 4.0))[0]
v = v + scan(lambda c, _: (0.5 * c + 0.1 * local(v * c), {m}.mean), jnp.array(0.5), length=2)[1][-1]
v = v + jit(lambda v: map(lambda y: local(v * y), jnp.arange(1.0, 3.0), reverse=True))(v).sum()
v = v + grad(lambda v: fori_loop(0, 2, lambda i, c: 0.5 * c + local(v), jnp.array(0.5)))(v)
v = v + map(lambda y: grad(local)(v * y).sum(), jnp.arange(1.0, 4.0)).sum()
v = v + map(checkpoint(lambda y: local(v * y)), jnp.arange(1.0, 4.0)).sum()
v = v + checkpoint(lambda v: map(lambda y: local(v * y), jnp.arange(1.0, 3.0)).sum())(v)
v = v + map(lambda y: map(lambda z: local(v * y * z), jnp.arange(1.0, 3.0)).sum(), jnp.arange(1.0, 3.0)).sum()
v = v + fori_loop(0, 3, lambda i, c: 0.5 * c + local(v) * i, jnp.array(0.5))
v = v + while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, 0.5 * c[1] + local(v)), (jnp.array(0), jnp.array(0.5)))[1]
v = v + cond(jnp.sum(v) > 0.3, local, lambda v: jnp.sum(v), v)
v = v + cond(jnp.sum(v) > 0.3, lambda v: local(v) * 0.5, local, v)
v = v + checkpoint(lambda v: cond(jnp.sum(v) > 0.3, local, grad(local), v))(jnp.sum(v))
v = v + map(lambda y: cond(y > 1.5, local, lambda v: jnp.sum(v), v * y), jnp.arange(1.0, 4.0)).sum()
v = v + switch(jnp.argmax(v), [local, lambda v: jnp.sum(v), local], v)
""".strip().splitlines()

WIRING = """
net.twin = net.inner
net.inner.bias = net.bias
net.inner.weight = other.weight
net.inner.history = net.history
other.history = net.history
other.seen["inner"] = net.seen
net.shared = other
net.friends = (other, "name")
net.register_forward_hook(keep_output)
net.inner.register_forward_hook(keep_output)
net.inner.register_forward_hook(scale_output)
net.inner.register_forward_pre_hook(count_calls)
net.inner.eval()
net.get_parameter("bias").requires_grad_(False)
net.inner.mode = "bad"
net.inner.generator = net.generator
net.layers[1].weight = net.layers[0].weight
net.layers[2].register_forward_hook(keep_output)
net.layers[2].eval()
[layer.register_forward_pre_hook(count_calls) for layer in net.layers]
[layer.register_forward_hook(keep_output) for layer in net.layers]
net.layers[0] = net.layers[2]
net.layers.append(net.inner)
[setattr(layer, "history", net.history) for layer in net.layers]
[setattr(layer, "seen", net.seen) for layer in net.layers]
[setattr(layer, "lazy", other) for layer in net.layers]
net.history = []
del net.h
""".strip().splitlines()

# What only makes sense between two calls.
ACTIONS = """
net.eval()
net.train()
net.eval()
{m}.config.scale = {m}.config.scale + 0.5
{m}.history.append(jnp.ones(3))
{m}.trace.clear()
{m}.register_forward_hook(keep_output)
{m}.note = "written by the user"
{m}.weight = jnp.array([0.25, 0.5])
manual_seed(11)
net.layers.append(Child())
net.layers[0].mean = jnp.ones(2)
optimizer.param_groups[0]["lr"] = 0.2
""".strip().splitlines()

RESULTS = """
v
x
None
"done"
{m}
{m}.weight
{m}.mean
({m}.mean, [v, {m}.bias], dict(a=x, n=3))
{m}.trace
{m}.history
{m}.seen
{m}.state
len({m}.history)
getattr({m}, "h", None)
(v, v, {n}.mean, {m}.mean)
""".strip().splitlines()

# How the program comes to its module. `{name}` is what jit and grad see as the function.
ACCESS = {
    "argument": """
def program(net, x):
{body}
differentiated = value_and_grad(program, has_aux=True)
def build(world):
    return program, differentiated
def arguments(world, x):
    return world.net, x
""",
    "global": """
def program(x):
{body}
def differentiated(x):
    return value_and_grad(lambda _: program(x), has_aux=True)(net)
def build(world):
    return program, differentiated
def arguments(world, x):
    global net
    net = world.net
    return (x,)
""",
    "attribute": """
box = World(None, None)
box.models = dict()
def program(x):
    net = box.models["net"]
{body}
def differentiated(x):
    return value_and_grad(lambda net: program(x), has_aux=True)(box.models["net"])
def build(world):
    return program, differentiated
def arguments(world, x):
    box.models["net"] = world.net
    return (x,)
""",
    "closure": """
def build(world):
    net = world.net
    def program(x):
{inner_body}
    return program, lambda x: value_and_grad(lambda _: program(x), has_aux=True)(net)
def arguments(world, x):
    return (x,)
""",
    "default": """
def build(world):
    def program(x, net=world.net):
{inner_body}
    return program, lambda x: value_and_grad(lambda net: program(x), has_aux=True)(world.net)
def arguments(world, x):
    return (x,)
""",
    "partial": """
def program(net, x):
{body}
def build(world):
    differentiated = value_and_grad(program, has_aux=True)
    return functools.partial(program, world.net), functools.partial(differentiated, world.net)
def arguments(world, x):
    return (x,)
""",
    "method": """
class Trainer:
    def __init__(self, net):
        self.net = net
    def program(self, x):
        net = self.net
{inner_body}
    def differentiated(self, x):
        return value_and_grad(lambda net: self.program(x), has_aux=True)(self.net)
def build(world):
    trainer = Trainer(world.net)
    return trainer.program, trainer.differentiated
def arguments(world, x):
    return (x,)
""",
}
# Those whose function is the same for every world, so that a second world finds everything compiled.
SHARED = ("argument", "global", "attribute")

INPUTS = ("jnp.array([0.3, -0.4])", "jnp.array([0.3, -0.4])", "jnp.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])")
