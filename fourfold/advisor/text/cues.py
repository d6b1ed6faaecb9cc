"""The words that say something about a workload, as one table.

A cue is a way of saying one thing: `waits`, `later`, `sparse` and so on. Its weight tells how plainly it says so: 1 hints,
2 says, 3 states. In the patterns a space stands for any spaces or hyphens, `*` after letters for any ending, and `..`
for up to four words in between. A cue that stands under a negation ("no need for real-time answers") means what
`NEGATED` says, or nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

Meaning = Literal[
    "data_set", "one_by_one", "waits", "nobody_waits", "later", "strict", "relaxed", "sparse", "steady", "spiky",
    "diurnal", "scheduled", "no_idle", "always_on", "cold_ok", "cold_bad", "managed", "gpu", "cpu", "stream", "vpc",
    "several_models", "capture", "edge", "large", "long",
]  # fmt: skip

NEGATED: dict[Meaning, tuple[Meaning, int] | None] = {
    "waits": ("nobody_waits", 2),
    "strict": ("nobody_waits", 2),
    "cold_ok": ("cold_bad", 3),
    "cold_bad": None,
    "always_on": ("no_idle", 3),
    "steady": ("sparse", 1),
    "data_set": None,
    "scheduled": None,
    "gpu": ("cpu", 1),
    "one_by_one": None,
    "nobody_waits": ("waits", 1),
}
"""What a cue means with "not" before it. Not listed: a negation does not change it (the pattern has it already)."""

_DAY = r"(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday)s?"
_JOB = r"(?:scor|classif|process|analy[sz]|predict|comput|calculat|forecast|label|tag|rank|segment|check|evaluat|screen|rat|sort|transcrib|recalculat|revalu|estimat|infer|run|generat|precomput|translat|index|group|cluster|updat|read|re-?scor|digiti[sz]|caption|summari[sz]|anonymi[sz]|validat)\w*"
_THINGS = r"(?:records?|rows?|customers?|images?|documents?|files?|data|users?|accounts?|transactions?|articles?|pictures?|photos?|products?|items?|reviews?|e mails?|emails?|messages?|samples?|members?|subscribers?|policies|contracts?|books?|videos?|calls?|inputs?|tables?|logs?|readings?|claims?|applications?|patients?|invoices?|texts?|entries)"

_TABLE: dict[Meaning, dict[int, tuple[str, ...]]] = {
    "data_set": {
        3: (
            r"(?:entire|whole|complete|full|large|huge|massive|big|existing|historical|static|fixed|validation|test) (?:\w+ )?data ?sets?",
            r"data sets? (?:at once|as a whole|all at once)",
            r"(?:no|without an?|not (?:need|require)\w* an?) (?:\w+ )?(?:persistent|permanent|online|always on|dedicated) endpoints?",
            r"(?:persistent|permanent|online) endpoints? (?:is|are) (?:not|un)\w* ?(?:needed|required|necessary)?",
            r"no (?:\w+ )?endpoints? (?:is|are) (?:needed|required|necessary)",
            r"(?:don't|doesn't|does not|do not) (?:need|require|want) an? (?:\w+ )?endpoint",
            r"(?:in|as) (?:bulk|one go|one (?:\w+ )?batch|one run|a single (?:job|run|batch|pass)|batches)",
            r"back ?(?:log|catalog\w*|list)s?", r"offline (?:\w+ )?(?:scoring|inference|predictions?|analysis|processing|job|batch)",
            r"(?:batch|bulk) (?:scor|predict|process|inferenc|transform|job|analy|run|workload)\w*",
            r"all .. at (?:the same time|once)", r"(?:scored|processed|analy[sz]ed|run) (?:all )?together",
            r"pre ?process\w* .. data ?sets?", r"mini ?batches", r"nightly (?:\w+ )?(?:job|run|batch|scoring|etl)\w*",
            r"etl", r"(?:data|points|records|files|readings|images|reviews) (?:\w+ )?(?:pile|piled|accumulat\w*|are gathered|gathered|are collected|collected)",
            r"(?:pile|piles|piled) up", r"accumulat\w*", r"batch\w*",
        ),
        2: (
            r"archiv\w*", r"data ?sets?", r"(?:data ?)?lake", r"(?:data )?warehouse", r"terabytes?", r"petabytes?",
            r"(?:once|one time|one off|one shot|a single time)(?= (?:only|job|run|project|task|analysis|effort|over|before|for)|[.,;)]|$)",
            r"(?:done|happens|run|runs|classif\w*|process\w*|score\w*|needed) (?:just |only )?once", r"only once", r"just once",
            r"historic\w* .. (?:data|records|transactions|images|documents|files|logs|rows|calls)", r"historical",
            r"(?:csv|parquet|json ?lines|jsonl|avro) (?:files?|data|table)", r"(?:tables?|files?|images?|records|documents|objects|data|reviews|logs|thumbnails|scans|videos) (?:\w+ ){0,2}(?:stored )?in (?:an? )?(?:amazon )?(?:s3|bucket|lake|warehouse|database|archive)",
            rf"all (?:of )?(?:the |its |our |their |these |those )?(?:[\w,']+ ){{0,3}}{_THINGS}", rf"(?:entire|whole|complete) (?:[\w']+ ){{0,2}}(?:{_THINGS}|base|collection|catalog\w*|network|inventory|portfolio|population|library|list|stock|output|season|corpus|history)",
            r"each of (?:the|its|our|their) .. (?:customers|subscribers|accounts|members|users|buildings|tracks|products|meters|policies)",
            r"every (?:customer|subscriber|account|row|record|product|policy|contract|article|household|meter|employee|member|store|user)",
            r"(?:last|past|previous) (?:\w+ )?(?:years?|months?|quarters?|decades?|year's|quarter's|month's|week's)",
            r"of (?:a|the|last|past|this) (?:year|month|week|season|quarter|day)", r"rows?", r"lies? in (?:files|an? \w+)", r"(?:the )?(?:list|catalog\w*|collection) is (?:fixed|complete)",
            r"writes? .. back", r"(?:customer|subscriber|user) base", r"join\w* .. (?:input|inference|predict)\w*", r"large (?:scale|volumes?|amounts?|quantit\w+|numbers?) (?:of )?(?:\w+ )?(?:inference|data|records|\w+ records|images|documents)?",
            r"large volumes?", r"trend (?:analysis|reports?)", r"reports? (?:\w+ ){0,3}(?:for|over) (?:\w+ ){0,3}(?:large|volumes)", r"precompute\w*", r"stored (?:in|on|at)",
            r"(?:stops?|shuts? down|terminat\w+) (?:afterwards|when|after|once)", r"not needed (?:again|afterwards|any ?more)", r"embeddings for", r"scan\w* (?:are|is) complete",
            r"millions of", r"billions of", r"(?:whole|entire) (?:week|month|year|quarter|day)'?s?", r"the (?:day|week|month|year|quarter)'s",
        ),
        1: (
            r"overnight", r"lists?", r"catalog\w*", r"collection\w*", r"campaigns?", r"mailings?", r"dashboards?", r"reports?", r"etl|pipeline",
            r"deadline", r"thousands of", r"at night", r"by the end of", r"throughput", r"large data", r"offline", r"periodic\w*", r"files", r"backup|dump|export",
            r"census|survey", r"forecasts?", r"s3", r"tomorrow's|next day's|next week's", r"embeddings", r"cheap\w*", r"lowest (?:price|cost)",
        ),
    },
    "scheduled": {
        3: (
            r"(?:every|each) (?:single )?(?:night|evening|weekend|quarter|spring|summer|autumn|fall|winter|midnight)",
            r"(?:at the|by) end of (?:the|each|every) (?:day|week|month|quarter|year)", r"(?:month|quarter|year|week|day)'s end", r"after (?:closing|close of business|harvest|the closing|the draw|hours)",
            rf"(?:every|each|on) (?:first |second |third |last )?{_DAY}(?: \w+)?", r"(?:first|last|second|\d+(?:st|nd|rd|th)|\w+th) (?:\w+ )?(?:day )?of (?:the|each|every|a) (?:month|quarter|year|week)",
            r"(?:every|each) first \w+", r"nightly", r"quarterly", r"(?:runs?|job|process\w*|score\w*|done|them|data|schedule\w*) (?:\w+ ){0,3}(?:daily|weekly|monthly|annually|yearly)", r"(?:weekly|monthly|daily|annual|yearly|hourly) (?:\w+ )?(?:job|run|batch|scor\w*|report\w*|forecast\w*|schedule|inference|analysis|predict\w*|sentiment|processing|score\w*|refresh|update\w*)",
            r"(?:once|one time|twice) (?:a|per|each|every) (?:day|week|month|quarter|year|night)(?= (?:for|to|at|by|and|with)|[.,;)]|$)", r"once (?:a|per|each|every) (?:night|week|month|quarter|year)", r"cron\w*", r"before each (?:mailing|campaign|run)", r"on a (?:\w+ )?(?:schedule|fixed schedule|regular schedule)", r"scheduled", r"schedule based",
            r"at (?:the )?(?:start|beginning) of (?:the|each|every) (?:day|week|month|quarter|year)", r"(?:at|after|around|starts? at) (?:midnight|\d{1,2}:\d{2}|\d{1,2} ?(?:a\.?m|p\.?m|o'clock)\b)", r"each (?:saturday|sunday) ",
        ),
        2: (r"over ?night", r"(?:over|during|in|at|on) the (?:weekend|summer|holidays|summer break|night|festive season|vacation)", r"(?:every|each) (?:day|week|month|year|morning|quarter)", r"(?:every|each) (?:\w+ )?(?:month|quarter|week|year)", r"periodic\w*", r"(?:in|after|during) the (?:\w+ )?(?:season|break|harvest)", r"(?:twice|three times|four times) (?:a|per) day after", r"annually"),
        1: (r"daily|weekly|monthly|yearly", r"at night", r"in the evening"),
    },
    "one_by_one": {
        3: (
            r"as (?:\w+ )?(?:they|it|requests|files|images|\w+) (?:arrive|arrives|come|comes|are uploaded|is uploaded|are received|happen|are scanned)(?: in)?",
            r"one by one", r"one (?:\w+ ){0,2}at a time", r"one after another", r"as soon as", r"the moment", r"on demand", r"on request", r"(?:whenever|each time|every time)", r"queue[ds]?", r"queu?ing", r"at any (?:moment|time|hour)", r"any time", r"when it comes in|as it comes in",
            r"individual\w* (?:requests?|calls?|files?)", r"at (?:unpredictable|irregular|odd|random) (?:times|hours|moments|intervals)", r"interactive\w*", r"(?<!go )(?<!goes )live", r"scale\w* (?:down )?to zero", r"cold starts?", r"invoke\w*|invocations?",
        ),
        2: (
            r"uploads?|uploaded|uploading", r"submit\w*", r"requests?", r"(?:users?|customers?|clients?|visitors?|staff|members?|students?|drivers?|listeners?|journalists?|brokers?|crews?|engineers?|designers?|architects?|doctors?|officers?|people|couples?|farmers?|employees|sellers?|creators?|developers?|analysts?|lawyers?|agents?|somebody|someone|dentists?|practices?|surgeries|examiners?) (?:\w+ )?(?:ask|asks|send|sends|call|calls|attach\w*|open|opens|look|looks|click|clicks|press|presses|start|starts|paste|pastes|hand|hands|drop|drops|upload|uploads|submit|submits|take|takes|photograph|trigger|triggers|use|uses|type|types|enter|enters|request|requests|post|posts|talk|talks)",
            r"clicks?", r"taps?", r"quer(?:y|ies)", r"sends?", r"sent", r"hands? in|handed in|hand in", r"attach\w*", r"drops? in", r"come in|comes in|came in|coming in", r"arriv\w+", r"calls? (?:the|a|our|to)", r"notif\w+", r"poll\w*", r"call ?back", r"web ?hooks?", r"api", r"events?", r"each (?:new )?(?:request|call|upload|image|file|document|application|case)", r"incoming",
            r"per (?:request|call|image|file|document|invocation)", r"each takes", r"minutes each|hours each|seconds each", r"endpoints?", r"payloads?", r"traffic", r"near real time",
        ),
        1: (r"pages?", r"apps?", r"web ?sites?", r"chat\w*", r"users?", r"for each", r"\beach\b"),
    },
    "waits": {
        3: (
            r"(?<!near )(?<!near-)in real time", r"interactive\w*", r"while (?:the )?(?:\w+ )?(?:waits?|waiting|drives?|talk\w*|speak\w*|hold\w*|travel\w*|roll\w*|is running|is on the|is waiting|they talk|people talk)", r"synchronous\w*", r"(?:user|customer|shopper|client|visitor|terminal|caller|driver|applicant|guest|patient|traveller|agent|operator|clerk|cashier)s? (?:\w+ )?(?:waits?|is waiting|are waiting)",
            r"wait for (?:each|the|every|their|an?) (?:answer|repl\w*|response|draft|result|prediction)s?", r"(?:must|should|can|may) not (?:have to )?(?:stall|wait)", r"at checkout|during checkout|during the authori\w+", r"before (?:it|they|the \w+) (?:confirms?|loads?|is shown|are shown|are displayed|is displayed)", r"as (?:the )?\w+ (?:speaks?|types?|talks?|drives?|speak|type|talk|roll)", r"user facing", r"customer facing",
        ),
        2: (
            r"(?<!near )(?<!near-)real time", r"on (?:the )?screen", r"chat ?bots?", r"conversations?|conversational", r"(?<!go )(?<!goes )live", r"users? (?:\w+ )?(?:expects?|notice\w*)", r"responsive\w*", r"immediate(?:ly)?", r"at once(?![.,]? (?:\d|in))", r"instant\w*", r"right away", r"straight away", r"low latency", r"latency sensitive", r"online (?:inference|prediction)s?", r"quick(?:ly)? (?:response|repl\w*|answer)s?", r"(?:fast|rapid|prompt) (?:response|repl\w*|answer|prediction)s?", r"respond quickly|responds? (?:fast|promptly)", r"while (?:the|a) \w+ (?:is|are)", r"during (?:the )?(?:call|game|match|conversation|session|drive|payment|checkout)", r"mobile app\w*", r"at each (?:tap|click|query|step)", r"on each (?:query|click|tap|page view|keystroke)", r"(?:shown|displayed|visible) (?:\w+ ){0,3}(?:seconds|at once|immediately)", r"on the fly", r"latency",
        ),
        1: (r"web ?sites?", r"apps?", r"assistants?", r"pages?", r"visitors?", r"show(?:s|n)?", r"answers?", r"quick\w*", r"fast", r"online"),
    },
    "nobody_waits": {
        3: (
            r"(?:nobody|no ?one|no (?:user|human|customer|client|person)s?) (?:\w+ )?(?:is |are )?(?:waits?|waiting|sits)", r"without (?:anyone|anybody|users|someone) waiting", r"no (?:need|requirement|hurry|rush|demand) (?:for|to|of|on|in)?(?: an?)? ?(?:immediate|real time|instant|low latency|fast|quick|online)? ?\w*",
            r"no hurry", r"no rush", r"not (?:\w+ )?urgent", r"not time (?:sensitive|critical)", r"no (?:strict )?(?:latency|response time|time|real time) (?:requirements?|constraints?|pressure|targets?|need|limits?)", r"latency (?:does not|doesn't|is not|isn't|is no) (?:\w+ )?(?:matter|important|critical|concern|an issue|a concern|required|priority)", r"(?:latency|speed) is (?:irrelevant|unimportant|secondary)", r"no latency", r"(?:must|need|needs|do|does|should) not (?:have to )?wait", r"are patient", r"low latency is not",
        ),
        2: (
            r"(?:can|may|could|will) wait", r"(?:any ?time|sometime|some time) (?:this|next|in|during|within|before)", r"(?:later|at leisure)", r"goes on with|go on with|continues? with|works? on|something else|other work|meanwhile|in the meantime", r"(?:next|following|same|a) (?:business |working )?(?:day|week|morning|month)(?: later)?", r"a day later", r"by (?:the )?(?:morning|tomorrow|noon|evening|monday|tuesday|wednesday|thursday|friday|the next)", r"before (?:midnight|dawn|morning|\d)", r"offline", r"tolerat\w+ (?:\w+ )?(?:delays?|latency|wait)", r"delays? (?:is|are) (?:\w+ )?(?:acceptable|tolerat\w*|ok|okay|fine)",
        ),
        1: (r"overnight", r"batch\w*", r"not (?:be )?(?:immediate|instant)\w*"),
    },
    "later": {
        3: (
            r"notif\w+", r"poll(?:s|ed|ing)?", r"call(?:s|ed)? ?back", r"queue[ds]?", r"queu?ing", r"(?:wait\w*|stand\w*|held) in (?:a )?(?:line|queue)", r"by (?:e )?mail", r"(?:are|is|get|gets|be) (?:e )?mailed", r"(?:get|gets|receive\w*|sent|send\w*) .. (?:e mail|mail|link|message|sms|text message|ticket number|push)", r"(?:link|message) (?:in|to|by|at|via) (?:their|the|his|her|an?)? ?(?:inbox|mail|e mail|phone)?", r"push (?:message|notification)s?", r"inbox", r"badge", r"told by|tells? them when|told when|informed when|alert\w* when", r"when (?:it|they|the \w+|that|this) (?:is|are|has been|have been) (?:ready|done|finished|complete\w*|there)", r"when (?:done|finished|ready|complete)", r"(?:asks?|come|comes|look|looks|pick\w*|fetch\w*|collect\w*|retriev\w*|see|sees|opens?|views?|reads?) .. (?:later|afterwards|after lunch)", r"pick(?:ed|s)? up (?:later|from)", r"asynchronous\w*", r"async", r"sns",
            r"(?:result|answer|outcome|finding|transcript|response|report|prediction)s? .. (?:later|afterwards|to (?:an? )?(?:amazon )?s3)", r"(?:may|can) close the",
            r"ticket number", r"job id",
        ),
        2: (
            r"(?:continues?|goes on|go on|carr(?:y|ies) on) with", r"(?:does|do|doing) something else", r"in the meantime", r"meanwhile", r"works on", r"later", r"afterwards", r"near real time", r"almost real time", r"not (?:have to|need to) be (?:instant|immediate)\w*", r"same (?:day|morning|afternoon)", r"(?:user|client|customer|page|uploader|sender|caller)s? (?:must|do|does|need|should) not (?:have to )?wait", r"not urgent", r"are patient", r"(?:can|may|accepts?|willing to|able to) (?:\w+ )?wait (?:for )?(?:a few|several|some|for)? ?minutes", r"wait(?:s|ed)? for a message", r"soon",
        ),
        1: (r"messages?", r"e ?mails?", r"links?"),
    },
    "strict": {
        3: (
            r"(?:sub|single digit|double digit|low) (?:\d+ ?)?(?:milliseconds?|ms)", r"sub (?:second|\d+)", r"(?:few|within|in|under|of|couple of|fewer than|mere|tens of|hundreds of) milliseconds", r"millisecond (?:\w+ )?(?:latenc\w+|response\w*|inference|prediction\w*|range|level|budget)", r"(?:ultra|very|extremely|extreme|lowest|lowest possible|minimal|strict|consistent\w*|guaranteed|predictable|stringent|tight) (?:\w+ )?(?:low )?latenc\w+", r"latency (?:\w+ )?(?:critical|is critical)", r"(?:far |much |too )?late (?:\w+ )?(?:is|are|would be) (?:useless|worthless|dangerous|of no use)", r"(?:useless|worthless|of no use|dangerous)", r"safety critical", r"split second", r"without (?:any |noticeable |perceptible )?(?:delay|lag)", r"no (?:noticeable |perceptible )?(?:delay|lag)", r"must not be delayed",
        ),
        2: (r"instant(?:ly|aneous\w*)?", r"at once(?= (?:when|if|or|and)|[.;])", r"immediately", r"time critical", r"low latency", r"self driving|autonomous (?:vehicles?|cars?|\w+ carts?)", r"while it drives", r"high frequency", r"real time (?:fraud|bidding|decision\w*)"),
        1: (r"(?<!near )(?<!near-)real time", r"right away", r"fraud\w*"),
    },
    "relaxed": {
        3: (),
        2: (r"(?:few|couple of|some|several|two or three|ten|five|three|four) seconds(?: of \w+)? (?:is|are|will be)? ?(?:fine|ok|okay|acceptable|tolerable|enough|no problem)", r"few seconds (?:\w+ ){0,3}(?:fine|ok|okay|acceptable|tolera\w*)", r"nobody minds", r"no promise\w*", r"(?:can|could) wait (?:five|ten|a few|some) seconds", r"latency .. seconds is (?:ok|okay|fine|acceptable)"),
        1: (r"within (?:a few|several|some) seconds", r"a few seconds later", r"some seconds"),
    },
    "sparse": {
        3: (
            r"sporadic\w*", r"intermittent\w*", r"infrequent\w*", r"rare(?:ly)?", r"seldom", r"occasional\w*", r"from time to time", r"now and (?:then|again)", r"once in a while", r"hardly (?:ever|any\w*)", r"irregular\w*", r"erratic\w*", r"unpredictable (?:\w+ )?(?:traffic|spurts?|bursts?|requests?|demand|usage|load|pattern\w*|workload|intervals?|times)", r"(?:traffic|demand|usage|load|requests|they|inference requests) (?:\w+ ){0,3}(?:is|are|be)? ?(?:highly |very )?unpredictable", r"unpredictabl[ey]", r"ad hoc", r"idle (?:most|for|over|\d|periods?|times?|between|in between|at|during|outside|much|nearly|the rest)", r"(?:long|periods? of|hours? of|stretches|phases|mostly|largely) (?:\w+ )?(?:idle\w*|silen\w*|inactiv\w*|quiet)", r"(?:quiet|silent|unused|inactive|idle) (?:for|at|on|during|periods?|the rest|most|in between|phases|in)", r"no(?:t any)? (?:traffic|requests|visitors|calls|questions) (?:\w+ )?(?:at all|in|on|for|at|during|most|some)", r"none (?:at all|on|in|at)", r"(?:nothing|none|nobody|no one) (?:\w+ )?(?:for|in|on|asks|arrives|happens|comes)", r"some (?:days|weeks|afternoons|months) (?:nobody|none|no one|nothing|no )", r"(?:never|nothing|none) for (?:a|days|weeks|hours|months)", r"sparse\w*", r"otherwise not used", r"without any (?:pattern|regularity)", r"(?:odd|random|irregular|unpredictable) (?:moments|times|hours|intervals)", r"at random", r"every few hours", r"idle", r"(?:spurts?|spikes?) (?:\w+ )?(?:with|followed by|and then|then|after)", r"fluctuat\w*", r"unevenly",
            r"low (?:and \w+ )?(?:traffic|volume|demand|usage|request)", r"few requests", r"hardly", r"handful of users",
        ),
        2: (r"spurts?", r"dribbl\w*", r"bursts?", r"bursty", r"pilot", r"prototype\w*", r"proof of concept", r"poc", r"hobby\w*", r"small (?:\w+ )?(?:shop|company|business|site|website|clinic|team|firm|store|startup)", r"quick experiment", r"experiment\w*", r"maybe", r"perhaps", r"at best", r"at most (?:a|\d+|an?|one|two|three|four|five) (?:dozen|hundred|times|\w+) (?:a|per) (?:day|week|month)", r"unknown|uncertain", r"business hours|working hours|office hours", r"inconsistent", r"variable (?:traffic|demand|load|workload)?", r"vary substantially", r"when (?:somebody|someone|visitors|anybody|a \w+) (?:asks?|opens?|clicks?|looks?|presses|submits)", r"used occasionally"),
        1: (r"spiky|spikes", r"tiny", r"small", r"demo", r"internal (?:\w+ )?(?:tool|app\w*|dashboard)", r"seasonal\w*", r"light ?weight", r"local", r"village"),
    },
    "steady": {
        3: (
            r"(?:steady|constant|continuous|sustained|consistent|stable|uniform|even) (?:\w+ )?(?:traffic|load|stream|rate|volume|demand|requests?|flow|request rates?|and)", r"(?:traffic|load|volume|demand|rate|requests?|request volume) (?:\w+ ){0,3}(?:is|are|stays?|remains?) (?:\w+ )?(?:steady|constant|continuous|high|stable|sustained|heavy|predictable)", r"steady|sustained", r"constant(?:ly)?", r"continuous(?:ly)?", r"around the clock", r"round the clock", r"24 ?(?:/|x) ?7", r"day and night", r"night and day", r"all day(?: long)?", r"all the time", r"throughout the day", r"at (?:all|every) hours?", r"every hour of the day", r"without (?:a )?(?:pause|break|interruption)", r"never (?:stop|stops|quiet|gets quiet|ends?)", r"from morning (?:to|till|until) (?:evening|night)", r"high(?: and \w+)? (?:traffic|volume|throughput|request)", r"heavy (?:traffic|load)", r"always several", r"thousands of concurrent", r"permanent(?:ly)? (?:\w+ )?(?:load|traffic)", r"ongoing", r"the whole year", r"every hour", r"(?:any|all) time zones", r"at any time of (?:the )?day", r"at all times", r"never fewer", r"always (?:on|available|running)", r"hundreds of .. (?:at any time|all day|concurrent|at once)", r"busy",
        ),
        2: (r"hundreds of (?:agents|users|consultations|people|staff)", r"millions of users", r"concurrent users", r"predictable", r"persistent", r"thousands of requests", r"in the daytime", r"rush hour", r"three shifts", r"peaks?", r"little variation", r"at peak", r"never"),
        1: (r"busy", r"worldwide", r"global\w*", r"day"),
    },
    "spiky": {
        3: (r"spik(?:y|es?)", r"bursts?|bursty", r"surges?", r"sudden (?:peaks?|increase\w*)"),
        2: (),
        1: (),
    },
    "diurnal": {
        3: (r"business hours", r"(?:office|working|opening) hours", r"daytime", r"at noon", r"rush hour", r"peaks? (?:at|in) (?:noon|the (?:morning|evening|daytime))", r"at night"),
        2: (), 1: (),
    },
    "no_idle": {
        3: (
            r"(?:no|without|zero|avoid\w*|minimi[sz]\w*|eliminat\w*|reduc\w*|not pay\w* for|never pay\w* for) (?:\w+ )?(?:idle|standing|fixed) (?:\w+ )?(?:costs?|capacity|time|resources|instances?|compute|machines?|servers?|gpus?)", r"idle (?:\w+ )?(?:costs?|capacity|time|machine|gpus?|instances?|compute) (?:\w+ )?(?:must|should|is|are|need|may|can) (?:not|un\w+|no)", r"idle (?:\w+ )?(?:capacity|gpus?|machines?) (?:is|are) (?:too )?(?:expensive|costly|a waste)", r"pay(?:ing|s)? (?:\w+ )?(?:only )?(?:for|per) (?:\w+ ){0,2}(?:what|use|usage|used|request|requests|actual|call|calls|compute|invocation\w*|inference)", r"(?:billed|charged|pay|pays|paying|bill) (?:\w+ ){0,2}(?:only|just|per|for the)", r"pay (?:per|as you|by|for)", r"pay ?per ?use", r"pays only", r"pay only", r"(?:no|without) (?:endpoint|instance|machine|server|gpu|gpus|instances|machines)s? (?:\w+ )?(?:should|must|may|has to|have to)? ?(?:be |keep |stay |is |are )?(?:running|run|kept|idle|up|on)", r"(?:no|not) (?:always (?:on|running)|permanent) (?:\w+ )?(?:server|instance|endpoint|machine)s?", r"(?:always (?:on|running)|permanent|dedicated) (?:\w+ )?(?:server|instance|endpoint|machine)s? (?:\w+ )?(?:would be|is|are|cannot|can't|makes?|should not|can not) (?:an? |no |not |too )?(?:waste\w*|be justified|expensive|sense|overkill|acceptable|wanted|justified)", r"scal\w+ (?:\w+ ){0,3}(?:down )?to (?:zero|0)", r"down to zero", r"(?:when|while|if) (?:it is |they are |nothing is |there is |not )?(?:idle|nobody|nothing|in use|no (?:requests?|traffic|jobs?|one))", r"nothing should (?:keep|be|run|stay)", r"nothing (?:should|may|must|is to) (?:\w+ )?be (?:billed|paid|charged)", r"should be off", r"must not (?:be paid|cost)", r"(?:no|zero) costs? (?:when|while|in|during|if|at)", r"next to nothing", r"costs? (?:\w+ )?follow usage", r"(?:no|not an?) (?:budget|money) for an? (?:\w+ )?(?:permanent|machine|server|always)", r"should go away", r"pay\w* for an? (?:idle )?(?:instance|machine|server) (?:\w+ ){0,4}(?:no sense|waste)", r"standing cost", r"no compute costs?", r"costs? (?:\w+ )?when (?:the model is )?(?:not|idle|traffic)", r"between .. no (?:machine|instance|server|gpu)s? should", r"minimi[sz]\w* costs? when",
        ),
        2: (r"least (?:cost|expensive)", r"cost effective\w*", r"cheap\w*", r"low(?:est)? cost", r"minimi[sz]\w* costs?", r"strict cost\w*", r"tight budget", r"(?:small|limited|tiny) budget", r"(?:should|must) (?:\w+ )?cost (?:\w+ )?(?:little|nothing|next)", r"no cost"),
        1: (r"budget", r"costs?"),
    },
    "always_on": {
        3: (r"always (?:on|available|running|warm|ready|up)", r"persistent (?:\w+ )?(?:endpoint|hosting|rest|https|\w+ endpoint)", r"keep\w* (?:the )?(?:endpoint|instances?) (?:running|warm|up)", r"warm (?:at all times|always)"),
        2: (), 1: (),
    },
    "cold_ok": {
        3: (
            r"(?:tolerat\w+|accept\w*|mind|minds|live with|okay with|ok with|handle|fine with|willing to accept|allow\w*) (?:\w+ ){0,4}(?:cold starts?|(?:warm|start) ?up (?:delay|time)s?)", r"cold starts? (?:\w+ ){0,4}(?:is|are|of some seconds (?:is|are)|can be|may be) (?:\w+ )?(?:fine|ok|okay|acceptable|tolera\w*|no problem|accepted|allowed|not (?:a|an) (?:problem|issue|concern))", r"tolerance (?:for|of|to) cold starts?", r"(?:slow|slower|delayed) (?:first|initial) (?:\w+ )?(?:reply|response|answer|call|request)", r"(?:first|initial) (?:call|request|answer|reply|response|visitor|one) (?:\w+ ){0,3}(?:can|may|might) (?:take|wait|be slow\w*)", r"(?:start ?up|short|warm ?up|initial|slight|small) delays? (?:\w+ ){0,2}(?:is|are) (?:fine|ok|okay|acceptable|no problem|tolera\w*)", r"(?:pause|wait|delay) .. (?:on|for|with|at) the first", r"wait a little", r"cold starts? (?:are|is) (?:\w+ )?not", r"(?:occasional|not mind) (?:\w+ ){0,3}cold starts?", r"delay at first", r"(?:short|brief) (?:\w+ )?delay",
        ),
        2: (), 1: (),
    },
    "cold_bad": {
        3: (
            r"(?:no|never|not|cannot|can't|without|avoid\w*|must not|may not|zero|eliminat\w*|free of) (?!(?:a |an )?(?:problem|issue|mind|concern))(?:(?!mind|problem|concern)\w+ ){0,4}cold starts?", r"cold starts? (?:\w+ ){0,2}(?:is|are|would be|must be|cannot be|can't be|may) (?:\w+ )?(?:not|un\w+|never|avoided|forbidden|prohibited|tolerated|intolerable|no option)", r"no (?:start ?up|warm ?up) (?:delay|time)", r"(?:start|warm) ?up delay would", r"not even (?:for )?the first",
        ),
        2: (), 1: (),
    },
    "managed": {
        3: (
            r"(?:no|without|not (?:want to |wish to |have to |need to )?(?:manag\w+|maintain\w*|provision\w*|run|look\w* after|operat\w+|choos\w+|administer)) (?:\w+ ){0,2}(?:infrastructure|servers?|instances?|machines?|scaling|operations|capacity)", r"no (?:\w+ )?(?:infrastructure|servers?|instances?) (?:\w+ )?(?:to|should be|needs? to be|must be)? ?(?:be )?(?:manage\w*|maintain\w*|provision\w*|look\w*|choose|run)", r"(?:least|less|minimal|lowest|minimum|low|little|reduce\w*|minimi[sz]\w*) (?:amount of )?(?:operational|management|administrative|infrastructure|maintenance) (?:overhead|effort|burden|complexity|management)", r"(?:no|nobody|no one|no ?body) (?:there )?(?:to|who can) (?:run|look|manage|operate|maintain)", r"no operations (?:team|staff|people)", r"operations (?:team )?(?:must not|does not|should not|do not|doesn't)", r"without (?:choosing|managing|provisioning|having to|configuring|worrying)", r"not to provision", r"avoid (?:capacity planning|managing|provisioning|infrastructure)", r"(?:aws|sagemaker) to manage (?:the )?(?:underlying )?infrastructure", r"fully managed (?:infrastructure|scaling)", r"scale\w* (?:by itself|automatically|itself) (?:\w+ )?(?:and )?(?:down )?to zero", r"hands off", r"serverless",
        ),
        2: (), 1: (),
    },
    "gpu": {3: (r"gpus?", r"cuda", r"accelerators?", r"inferentia", r"graphics (?:card|processor)s?"), 2: (), 1: ()},
    "cpu": {3: (r"cpus?",), 2: (), 1: ()},
    "stream": {
        3: (r"tokens? (?:\w+ ){0,3}(?:stream\w*|as they|one by one)", r"stream\w* (?:\w+ ){0,3}(?:tokens?|responses?|answers?|output|repl\w+|text|back)", r"response streaming", r"word by word", r"token by token"),
        2: (), 1: (),
    },
    "vpc": {3: (r"(?:in|inside|within|from) (?:\w+ )?(?:vpc|virtual private cloud)", r"vpc", r"network isolation", r"private subnets?"), 2: (), 1: ()},
    "several_models": {
        3: (r"multi model(?: endpoint)?s?", r"(?:multiple|several|two|many|three) (?:production )?(?:variants|models|containers)", r"a/b tests?", r"inference pipelines?", r"shadow (?:test\w*|variants?)"),
        2: (), 1: (),
    },
    "capture": {3: (r"(?:captur\w+|record\w*|logg?ed|stored) (?:\w+ ){0,3}(?:for|to detect) (?:\w+ )?(?:drift|monitor\w*)", r"data capture", r"model monitor", r"drift (?:analysis|detection|monitoring)"), 2: (), 1: ()},
    "edge": {3: (r"self driving", r"autonomous (?:\w+ )?(?:cars?|vehicles?|trucks?|carts?|driv\w+|drones?|robots?)", r"without (?:a )?(?:network|internet|connection|connectivity)", r"(?:no|poor|unreliable) (?:network|internet|connectivity)", r"on the (?:device|vehicle|car|machine) itself", r"at the edge", r"on device", r"edge devices?"), 2: (), 1: ()},
    "large": {
        3: (r"large (?:\w+ )?(?:payloads?|requests?|files?|inputs?|images?|videos?|documents?|pdfs?|media|objects?|input data|recordings?)", r"payloads? (?:\w+ ){0,2}(?:is|are|can be|may be|will be) (?:very |quite )?(?:large|big|huge)", r"(?:huge|big|massive|hefty|bulky) (?:\w+ )?(?:payloads?|files?|requests?|inputs?|videos?|images?|documents?)", r"high resolution (?:\w+ )?(?:images?|videos?|frames?|scans?|video frames?)", r"(?:a )?set is large", r"hundreds of megabytes", r"large high resolution"),
        2: (r"videos?", r"long (?:videos?|recordings?|audio|documents?)", r"feature length|full length"), 1: (),
    },
    "long": {
        3: (r"long (?:\w+ )?(?:processing|running|inference|computation|execution|compute|lasting)(?: times?)?", r"long running", r"time consuming", r"minutes (?:of \w+ )?(?:to|each|per|of computation)", r"(?:takes?|take|taking|needs?|runs? for|lasts?) (?:\w+ )?(?:many |several |some |a few |a couple of )?(?:minutes|hours)", r"slow model", r"compute intensive|computationally (?:expensive|heavy|intensive)"),
        2: (), 1: (),
    },
}  # fmt: skip

_NEGATOR = re.compile(
    r"(?<!\w)(?:no|not|never|without|neither|nor|n't|don't|doesn't|isn't|aren't|won't|can't|cannot|needn't|nobody|"
    r"no longer|instead of|rather than|avoid\w*|unnecessary|hardly|not need\w*|free of)(?!\w)"
)
_CLAUSE_END = re.compile(
    r"[,;:()]|(?<!\w)(?:but|and|although|though|because|so|while|which|that|yet|however|if|when|as)(?!\w)"
)


@dataclass(frozen=True)
class Hit:
    """A cue found in a text: what it says, how plainly, and where."""

    meaning: Meaning
    weight: int
    start: int
    end: int


@cache
def _pattern(meaning: Meaning, weight: int) -> re.Pattern[str] | None:
    parts = _TABLE[meaning].get(weight)
    if not parts:
        return None
    return re.compile("|".join(rf"(?<!\w)(?:{_expand(p)})(?!\w)" for p in parts))


def _expand(pattern: str) -> str:
    pattern = pattern.replace(" .. ", r"\W+(?:[\w'-]+\W+){0,4}?")
    return pattern.replace(" ", "[ -]")


def cues(text: str) -> list[Hit]:
    """Every cue of a prepared text; of two that overlap and mean the same, the plainer one. Negations are resolved."""
    found: list[Hit] = []
    for meaning, by_weight in _TABLE.items():
        taken: list[tuple[int, int]] = []
        for weight in sorted(by_weight, reverse=True):
            pattern = _pattern(meaning, weight)
            for match in pattern.finditer(text) if pattern else ():
                start, end = match.span()
                if any(start < e and s < end for s, e in taken):
                    continue
                taken.append((start, end))
                hit = _under_negation(text, Hit(meaning, weight, start, end))
                if hit:
                    found.append(hit)
    return sorted(found, key=lambda hit: (hit.start, hit.meaning))


def _under_negation(text: str, hit: Hit) -> Hit | None:
    if hit.meaning not in NEGATED:
        return hit
    before = text[max(0, hit.start - 60) : hit.start]
    for stop in ".!?;\n":
        before = before.rpartition(stop)[2]
    clause = list(_CLAUSE_END.finditer(before))
    scope = before[clause[-1].end() :] if clause else before
    negator = None
    for negator in _NEGATOR.finditer(scope):
        pass
    if not negator or len(scope[negator.end() :].split()) > 6:
        return hit
    other = NEGATED[hit.meaning]
    start = hit.start - len(scope) + negator.start()
    return Hit(other[0], other[1], start, hit.end) if other else None
