# Makes torch_orders.json in the folder that it is run in.
import torch, json, hashlib
def h(l): return hashlib.sha256(','.join(map(str,l)).encode()).hexdigest()[:16]
out={"made_by":"torch "+torch.__version__+" (CPU), Python 3.11","permutations":[],"sampler_seeds":[],"drawn":[],"one_generator":[]}
for seed in [0,1,42,43,44,2**31,2**32+7,2**63-1]:
    for n in [0,1,2,3,19,22,100,625,5000,70000]:
        g=torch.Generator(); g.manual_seed(seed)
        p=torch.randperm(n,generator=g).tolist()
        out["permutations"].append({"seed":seed,"n":n,"first":p[:8],"hash":h(p)})
for seed in [0,42,12345]:
    torch.manual_seed(seed)
    out["sampler_seeds"].append({"seed":seed,"seeds":[str(int(torch.empty((),dtype=torch.int64).random_().item())) for _ in range(5)]})
    from torch.utils.data import RandomSampler
    torch.manual_seed(seed)
    s=RandomSampler(range(50)); out["drawn"].append({"seed":seed,"n":50,"epochs":[list(s) for _ in range(3)]})
    g=torch.Generator(); g.manual_seed(seed)
    s=RandomSampler(range(50),generator=g); out["one_generator"].append({"seed":seed,"n":50,"epochs":[list(s) for _ in range(3)]})
json.dump(out,open('torch_orders.json','w'),separators=(',',':'))
