"""One small valid log of each format, as its publisher writes it."""

PHILLY = """timestamp,duration,num_gpus,gpu_time,cluster

2017-10-09 07:01:55,66.0,1,66.0,11cb48
2017-10-09 06:13:03,2951.0,2,5902.0,6214e9
"""
PHILLY_WAITS = """,run_time,wait_time,submit_time,gpu_num
0,1389243,0,1502114581,1
1,14405,30,1502509727,8
"""
PHILLY_JSON = """[
  {"status": "Pass", "vc": "ee9e8c", "jobid": "application_1", "user": "u1", "submitted_time": "2017-10-07 01:11:39",
   "attempts": [
     {"start_time": "2017-10-07 01:12:09", "end_time": "2017-10-07 01:13:09",
      "detail": [{"ip": "m47", "gpus": ["gpu0", "gpu1"]}, {"ip": "m48", "gpus": ["gpu0", "gpu1"]}]},
     {"start_time": "2017-10-07 02:00:00", "end_time": "2017-10-07 03:00:00",
      "detail": [{"ip": "m47", "gpus": ["gpu0", "gpu1", "gpu2", "gpu3"]}]}]},
  {"status": "Killed", "vc": "a", "jobid": "application_2", "user": "u", "submitted_time": "2017-10-07 00:00:00",
   "attempts": []},
  {"status": "Failed", "vc": "a", "jobid": "application_3", "user": "u", "submitted_time": "2017-10-07 00:00:00",
   "attempts": [{"start_time": "2017-10-07 00:00:05", "end_time": null, "detail": [{"ip": "m1", "gpus": ["gpu0"]}]}]}
]
"""
HELIOS = """job_id,user,vc,gpu_num,cpu_num,node_num,state,submit_time,start_time,end_time,duration,queue
1425511,uXBbc,vcJkd,1,1,1,COMPLETED,2020-06-09 18:41:01,2020-06-09 18:41:01,2020-06-10 04:55:09,36848,0
1425512,uVMrF,vchbv,4,16,1,TIMEOUT,2020-06-09 18:41:27,2020-06-09 18:42:27,2020-06-09 18:46:36,249,60
1425513,uzqls,vcpDC,0,1,1,CANCELLED,2020-06-09 18:41:28,2020-06-09 18:41:28,2020-06-17 14:15:21,675233,0
"""
ACME = """job_id,user,node_num,gpu_num,cpu_num,type,state,submit_time,start_time,end_time,duration,queue,gpu_time
578,u07c,1,8,128,Other,COMPLETED,2023-03-01 00:00:05+08:00,2023-03-01 00:00:16+08:00,2023-03-01 02:00:16+08:00,7200,11,57600
579,u07c,1,0,4,Eval,FAILED,2023-03-01 00:00:05+08:00,2023-03-01 00:00:16+08:00,2023-03-01 00:01:16+08:00,60,11.0,0
580,u11d,4,32,128,Pretrain,NODE_FAIL,2023-03-01 00:10:05+08:00,2023-03-01 00:10:16+08:00,2023-03-02 00:10:16+08:00,86400,11.0,2764800
"""  # noqa: E501
ITP = """job_id,submission_time,duration,num_gpu
b,2000581,1532,1
a,1932025,2429,64
"""
ITP_MODELS = """job_id,submission_time,num_iteration,model_name,deadline,batch_size,num_gpu,duration
bdd640fb,3715485,3249,DeepSpeech2,3716178,32,1,1075
"""
POLLUX = """name,time,application,num_replicas,batch_size
cifar10-0,107,cifar10,6,2048
bert-1,401.0,bert,12,384
"""
TIRESIAS = """job_id,num_gpu,submit_time,iterations,model_name,duration,interval
0,1,0,606,vgg19,164,30
1,8,30,133,vgg11,147,23
"""
SWF = """; Version: 2.2
; Computer: IBM SP2
; UnixStartTime: 1000000000
  1  0  5  100  8 -1 -1  8 -1 -1 1 3 1 7 1 1 -1 -1
  2 10 -1   50  4 -1 -1 -1 -1 -1 5 4 1 -1 1 1 -1 -1
  3 20  1   -1  4 -1 -1  4 -1 -1 0 4 1 -1 1 1 -1 -1
  4 30  1   60  4 -1 -1  4 -1 -1 2 4 1 -1 1 1 -1 -1
"""
SACCT = """State|JobID|Submit|Start|End|Elapsed|AllocTRES|ReqTRES|User|Account|JobName
COMPLETED|100|2024-01-01T00:00:00|2024-01-01T00:01:00|2024-01-02T02:04:03|1-02:03:03|gres/gpu:a100=8,gres/gpu=8,mem=4G||ann|vision|train
COMPLETED|100.batch|2024-01-01T00:01:00|2024-01-01T00:01:00|2024-01-02T02:04:03|1-02:03:03|cpu=64,gres/gpu=8|||vision|batch
CANCELLED by 1001|101_4|2024-01-01T01:00:00|2024-01-01T01:00:10|2024-01-01T01:10:10|00:10:00|gres/gpu:v100=2,gres/gpu:a100=2||bob|nlp|sweep
RUNNING|102|2024-01-01T02:00:00|2024-01-01T02:00:10|Unknown|00:10:00|gres/gpu=1||bob|nlp|now
COMPLETED|103|2024-01-01T02:00:00|2024-01-01T02:00:10|2024-01-01T02:10:10|00:10:00|cpu=4,mem=1G||bob|nlp|cpu
CANCELLED|104|2024-01-01T02:00:00|None|2024-01-01T02:10:10|00:00:00||gres/gpu=4|bob|nlp|gone
TIMEOUT|105|2024-01-01T03:00:00|2024-01-01T03:00:10|Unknown|05:30|gres/gpu=1||bob|nlp|limit
"""  # noqa: E501
SACCT_JSON = """{"meta": {"slurm": {"version": {"major": "23"}}},
 "jobs": [
  {"job_id": 7, "array": {"job_id": 0, "task_id": {"set": false, "infinite": false, "number": 0}}, "name": "a",
   "user": "ann", "account": "vision", "partition": "gpu", "qos": "high",
   "state": {"current": ["COMPLETED"], "reason": "None"},
   "time": {"submission": 1700000000, "start": 1700000060, "end": 1700003660, "elapsed": 3600},
   "tres": {"allocated": [{"type": "cpu", "name": "", "count": 8}, {"type": "gres", "name": "gpu", "count": 4},
                          {"type": "gres", "name": "gpu:a100", "count": 4}], "requested": []}},
  {"job_id": 9, "array": {"job_id": 8, "task_id": {"set": true, "infinite": false, "number": 3}}, "name": "b",
   "user": "bob", "association": {"account": "nlp", "user": "bob"}, "state": {"current": "CANCELLED"},
   "time": {"submission": {"set": true, "infinite": false, "number": 1700000100}, "start": 1700000200,
            "end": 1700000300, "elapsed": 100},
   "tres": {"requested": [{"type": "gres", "name": "gpu:h100", "count": 2}]}},
  {"job_id": 10, "state": {"current": ["PENDING"]},
   "time": {"submission": 1700000300, "start": 0, "end": 0, "elapsed": 0},
   "tres": {"requested": [{"type": "gres", "name": "gpu", "count": 2}]}}
 ],
 "errors": []}
"""
CSV = """id,submit_s,duration_s,gpus,model,global_batch,iterations,state,extra
a,0,60,1,bert,384,100,completed,x
b,30.5,,8,cifar10,2048,5000,,y
"""

ALL = {
    "philly": PHILLY,
    "philly-waits": PHILLY_WAITS,
    "philly-json": PHILLY_JSON,
    "helios": HELIOS,
    "acme": ACME,
    "itp": ITP,
    "itp-models": ITP_MODELS,
    "pollux": POLLUX,
    "tiresias": TIRESIAS,
    "swf": SWF,
    "sacct": SACCT,
    "sacct-json": SACCT_JSON,
    "csv": CSV,
}
