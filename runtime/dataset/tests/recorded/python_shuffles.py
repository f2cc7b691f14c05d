# Makes python_shuffles.json in the folder that it is run in.
import random, json, hashlib, sys
def h(l): return hashlib.sha256(','.join(map(str,l)).encode()).hexdigest()[:16]
out={"made_by":"CPython "+sys.version.split()[0],"shuffles":[],"bits":[],"unit":[]}
for seed in [0,1,2,42,-42,1337,2**31,2**32-1,2**32,2**53,2**64-1]:
    for n in [0,1,2,3,10,22,1000,3215,65537]:
        random.seed(seed); l=list(range(n)); random.shuffle(l)
        out["shuffles"].append({"seed":str(abs(seed)),"n":n,"first":l[:8],"hash":h(l)})
    random.seed(seed); out["bits"].append({"seed":str(abs(seed)),"bits":[[k,str(random.getrandbits(k))] for k in [1,5,31,32,33,48,63,64,7]]})
    random.seed(seed); out["unit"].append({"seed":str(abs(seed)),"unit":[random.random() for _ in range(4)]})
out["split_points"]=[[n,f,int(n*f)] for n in [0,1,2,9,10,11,19,22,29,100,3215,9999,1000003] for f in [0.9,0.8,0.95,0.7,0.1,1.0,0.0,0.29]]
json.dump(out,open('python_shuffles.json','w'),separators=(',',':'))
