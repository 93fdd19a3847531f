import copy
import keras, numpy as np, pytest
import samples as s
import tf_tickets as tt
from tf_tickets import wrapping
ALL={**s.LAYERS,**s.TOPOLOGIES}
def eq(a,b):
    assert len(a)==len(b)
    for x,y in zip(a,b): np.testing.assert_array_equal(x,y)
@pytest.mark.parametrize("n",ALL)
def test_all(n,tmp_path):
    make,count=ALL[n]
    plain=s.compiled(s.built(make)); w=tt.wrap(s.built(make),verbose=False)
    assert len(wrapping.kernels(w))==count
    s.compiled(w)
    x,y=s.data(plain)
    eq(s.outputs(plain,x),s.outputs(w,x))
    a=s.fit(plain,x,y,2); b=s.fit(w,x,y,2)
    assert a==b
    eq(s.weights(plain),s.weights(w))
    eq(s.outputs(plain,x),s.outputs(w,x))
    masks=s.half_masks(w)
    wrapping.set_masks(w,masks)
    s.fit(w,x,y)
    o=s.outputs(w,x)
    for p,v in wrapping.kernels(w).items():
        v.assign(np.where(masks[p],v.numpy(),1e3))
    eq(o,s.outputs(w,x))
    errs=[]
    def t(name,f):
        try: f()
        except Exception as e: errs.append(f"{name}: {type(e).__name__} {str(e)[:600]}")
    def save():
        w.save(tmp_path/"m.keras"); r=keras.models.load_model(tmp_path/"m.keras"); eq(o,s.outputs(r,x))
        s.fit(r,x,y)
    def cl():
        r=keras.models.clone_model(w); r.set_weights(w.get_weights()); eq(o,s.outputs(r,x))
        assert not {id(v) for v in r.variables}&{id(v) for v in w.variables}
    def deep():
        r=copy.deepcopy(w); eq(o,s.outputs(r,x))
    def sw():
        w.save_weights(tmp_path/"a.weights.h5"); r=tt.wrap(s.built(make),verbose=False); r.load_weights(tmp_path/"a.weights.h5"); eq(o,s.outputs(r,x))
    def cfg():
        r=type(w).from_config(w.get_config()); r.set_weights(w.get_weights()); eq(o,s.outputs(r,x))
    def st():
        r=tt.strip(w); eq(o,s.outputs(r,x)); assert not wrapping.prunables(r)
    for name,f in dict(save=save,clone=cl,deep=deep,weights=sw,cfg=cfg,strip=st).items(): t(name,f)
    assert not errs, "\n".join(errs)
