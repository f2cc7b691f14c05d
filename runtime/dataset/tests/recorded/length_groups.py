# Makes length_groups.json in the folder that it is run in.
import torch, json, random
from transformers.trainer_pt_utils import get_length_grouped_indices
out={"made_by":"transformers 5.23.0, torch "+torch.__version__,"cases":[]}
r=random.Random(3)
for n,b in [(1,4),(5,2),(19,4),(64,4),(300,8),(1000,4),(1000,64)]:
    L=[r.randrange(1,60) for _ in range(n)]
    g=torch.Generator(); g.manual_seed(42)
    out["cases"].append({"n":n,"batch":b,"seed":42,"lengths":L,"order":get_length_grouped_indices(L,b,generator=g)})
json.dump(out,open('length_groups.json','w'),separators=(',',':'))
