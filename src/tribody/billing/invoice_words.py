"""What is printed on an invoice, in each language."""

from __future__ import annotations

from typing import Literal

import msgspec

from tribody.billing.invoice import LineKind

Language = Literal["en", "zh"]


class Words(msgspec.Struct, frozen=True, kw_only=True):
    """Texts with {names} are formatted."""

    language: str
    title: str
    number: str
    tenant: str
    seller: str
    buyer: str
    period: str
    made: str
    provisional: str
    summary: str
    charged: str
    from_granted: str
    from_topped_up: str
    due: str
    charges: str
    price_list: str
    requests: str
    columns: tuple[str, str, str, str, str]
    rounding: str
    rule_total: str
    total: str
    no_charges: str
    balance: str
    balance_columns: tuple[str, str, str, str]
    opening: str
    charges_row: str
    closing: str
    kinds: dict[LineKind, str]
    transfers: dict[str, str]
    uncharged: str
    uncharged_columns: tuple[str, str, str]
    outcomes: dict[str, str]
    footnotes: tuple[str, ...]


ENGLISH = Words(
    language="en",
    title="Invoice",
    number="Number",
    tenant="Account",
    seller="From",
    buyer="To",
    period="Period",
    made="Made",
    provisional="Provisional: the month is not over.",
    summary="Summary",
    charged="Charged",
    from_granted="of it from granted balance",
    from_topped_up="of it from topped-up balance",
    due="Owed at the end of the period",
    charges="Charges by model and rule",
    price_list="price list {digest}, rule {rule}",
    requests="{num} requests",
    columns=("", "Tokens", "of them free", "Price per million", "Amount"),
    rounding="Rounding of {num} requests, each once to 0.000001",
    rule_total="Sum",
    total="Total",
    no_charges="Nothing was charged in this period.",
    balance="Balance",
    balance_columns=("", "Granted", "Topped up", "Together"),
    opening="Before",
    charges_row="Charges",
    closing="After",
    kinds={
        "hit": "Prompt, from the cache",
        "miss": "Prompt, computed",
        "output": "Completion",
        "reasoning": "Reasoning",
        "result": "Accepted results (price each)",
    },
    transfers={
        "top_up": "Top-up",
        "grant": "Grant",
        "refund": "Refund",
        "adjust": "Adjustment",
    },
    uncharged="Requests that were not charged",
    uncharged_columns=("How they ended", "Requests", "Tokens"),
    outcomes={
        "error": "an error of the service",
        "restart": "a restart of the service",
        "drain": "the service was shut down",
        "refused": "refused",
    },
    footnotes=(
        "Each request is priced at the instant that it began, by the rule in force then, and its "
        "sum is rounded once, half to even.",
        "Requests that were cut short by the client or a timeout are charged for the prompt once "
        "it was read and for what had been generated. Failures of the service are free.",
        "Days and months are those of Asia/Shanghai (UTC+8); a charge belongs to the day on which "
        "its request ended or its result was accepted.",
        "Ledger entry {sequence}, hash {hash}.",
    ),
)

CHINESE = Words(
    language="zh-CN",
    title="账单",
    number="账单号",
    tenant="账户",
    seller="服务方",
    buyer="客户",
    period="账期",
    made="出具时间",
    provisional="暂定：账期尚未结束。",
    summary="汇总",
    charged="消费金额",
    from_granted="其中赠送余额支付",
    from_topped_up="其中充值余额支付",
    due="期末应付",
    charges="按模型与计价规则的明细",
    price_list="价目表 {digest}，规则 {rule}",
    requests="{num} 次请求",
    columns=("", "Token 数", "其中免费", "单价（每百万）", "金额"),
    rounding="{num} 次请求的舍入（每次请求只舍入一次，至 0.000001）",
    rule_total="小计",
    total="合计",
    no_charges="本账期无消费。",
    balance="余额",
    balance_columns=("", "赠送", "充值", "合计"),
    opening="期初",
    charges_row="消费",
    closing="期末",
    kinds={
        "hit": "输入（缓存命中）",
        "miss": "输入（缓存未命中）",
        "output": "输出",
        "reasoning": "思考",
        "result": "已接受的结果（按个计价）",
    },
    transfers={
        "top_up": "充值",
        "grant": "赠送",
        "refund": "退款",
        "adjust": "调整",
    },
    uncharged="未计费的请求",
    uncharged_columns=("结束方式", "请求数", "Token 数"),
    outcomes={
        "error": "服务出错",
        "restart": "服务重启",
        "drain": "服务停机",
        "refused": "被拒绝",
    },
    footnotes=(
        "每个请求按其开始时刻有效的规则计价，金额只舍入一次（四舍六入五成双）。",
        "被客户端中断或超时的请求：输入在读完后计费，输出按已生成的数量计费；服务方的故障不计费。",
        "日期与月份按北京时间（UTC+8）；消费计入请求结束或结果被接受的日期。",
        "账本条目 {sequence}，哈希 {hash}。",
    ),
)

WORDS: dict[Language, Words] = {"en": ENGLISH, "zh": CHINESE}
