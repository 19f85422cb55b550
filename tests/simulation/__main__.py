from tests.simulation import seams
from tests.simulation.world import run
from tests.simulation.plan import plan_of
import sys, collections, traceback
seams.settled()
t=seams.real_clock(); c=collections.Counter(); first={}; counts=collections.Counter()
only=next((frozenset(a[5:].split(",")) for a in sys.argv if a.startswith("only=")),None)
a,b=int(sys.argv[1]),int(sys.argv[2])
for s in range(a,a+b):
    o=run(plan_of(s,only=only))
    for k in o.kinds:
        c[k]+=1; first.setdefault(k,(s,round(seams.real_clock()-t,1),[x for x in o.verdicts if x[0]==k][0][1]))
    counts+=o.counts; counts["steps"]+=o.steps
    if "story" in sys.argv: print("\n".join(o.story))
    if "verdicts" in sys.argv and o.verdicts: print(s,o.verdicts)
dt=seams.real_clock()-t
print(b/dt*60,"seeds/min",dt); print(c); 
for k,v in first.items(): print(k,v)
print(sorted(counts.items()))
