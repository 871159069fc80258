"""scikit-learn 1.9.1's tests of LogisticRegression that do not apply to LinearProbe, and why.

A name without parameters stands for all of its tests.
"""

from types import MappingProxyType

SPARSE = "rows are dense: sparse ones are refused in scikit-learn's words; nothing is sparsified"
L1 = "the penalty is L2 alone"
UNPENALISED = "C is finite: there always is a penalty"
INTERCEPT = "there always is an intercept"
SOLVER = "there is one solver, which takes any number of classes and gives the dtype of the rows"
DUAL = "there is no dual"
PATHS = "coefs_paths_ is not kept: folds x values of C x weights"
ONE_CLASS = "a fold whose training rows are of one class is refused"
LARGE = "values of 1e100 that are neither normalised nor standardised are refused"
PRIVATE = "asks for a private method of LogisticRegression"
CALLBACKS = "scikit-learn's callbacks are not called"
ROUTING = "takes sample_weight alone, without metadata routing: it counts in fits and in scores"
WORDS = "a ConvergenceWarning says what ours says; held by test_a_fit_that_ends_early_is_told"
DEPRECATED = "warns of a parameter that LinearProbe does not have"
THEIR_TOL = "compares with scikit-learn's own path at its tol of 1e-4, which is 3e-4 off"
STEPS = "counts the steps of Newton's method"
EXACT = "asks for weights equal to 1e-7, beyond what two fits from other starts share"
LED = "a cold fit of one step is led there by one step each from smaller C, and comes near"
SHARES = "a cold fit starts at the shares of the classes, not at zero"

NOT_OURS = MappingProxyType(
    {
        "test_predict_2_classes": SPARSE,
        "test_predict_3_classes": SPARSE,
        "test_check_solver_option": SOLVER,
        "test_elasticnet_l1_ratio_err_helpful": L1,
        "test_sparsify": SPARSE,
        "test_consistency_path": INTERCEPT,
        "test_liblinear_dual_random_state": DUAL,
        "test_logistic_cv": PATHS,
        "test_logistic_cv_multinomial_score[neg_log_loss-multiclass_agg_list3]": THEIR_TOL,
        "test_multinomial_cv_iris": PATHS,
        "test_logistic_cv_folds_with_classes_missing[2-False]": ONE_CLASS,
        "test_logistic_cv_folds_with_classes_missing[2-True]": ONE_CLASS,
        "test_logistic_cv_folds_with_classes_missing[3-False]": PATHS,
        "test_logistic_cv_folds_with_classes_missing[3-True]": PATHS,
        "test_logistic_regression_solvers_multiclass_unpenalized": UNPENALISED,
        "test_logistic_cv_sparse": SPARSE,
        "test_sample_and_class_weight_equivalence_liblinear": L1,
        "test_logistic_regression_class_weights[42-csr_matrix]": SPARSE,
        "test_logistic_regression_class_weights[42-csr_array]": SPARSE,
        "test_liblinear_decision_function_zero": INTERCEPT,
        "test_logreg_intercept_scaling_zero": INTERCEPT,
        "test_logreg_l1": L1,
        "test_logistic_regression_cv_refit[42-1]": L1,
        "test_logistic_regression_cv_refit[42-0]": EXACT,
        "test_logreg_predict_proba_multinomial": PRIVATE,
        "test_max_iter": WORDS,
        "test_zero_max_iter[liblinear]": SHARES,
        "test_zero_max_iter[newton-cg]": SHARES,
        "test_zero_max_iter[newton-cholesky]": SHARES,
        "test_zero_max_iter[sag]": SHARES,
        "test_zero_max_iter[saga]": SHARES,
        "test_warm_start[42-True-False-lbfgs]": LED,
        "test_warm_start[42-True-False-newton-cg]": LED,
        "test_warm_start[42-True-False-newton-cholesky]": LED,
        "test_warm_start[42-True-False-sag]": LED,
        "test_warm_start[42-True-False-saga]": LED,
        "test_warm_start[42-False-False-lbfgs]": LED,
        "test_warm_start[42-False-False-newton-cg]": LED,
        "test_warm_start[42-False-False-newton-cholesky]": LED,
        "test_warm_start[42-False-False-sag]": LED,
        "test_warm_start[42-False-False-saga]": LED,
        "test_warm_start_newton_solver": STEPS,
        "test_saga_vs_liblinear[42-csr_matrix-0]": SPARSE,
        "test_saga_vs_liblinear[42-csr_matrix-1]": L1,
        "test_saga_vs_liblinear[42-csr_array-0]": SPARSE,
        "test_saga_vs_liblinear[42-csr_array-1]": L1,
        "test_dtype_match": SPARSE,
        "test_elastic_net_coeffs": L1,
        "test_elastic_net_l1_l2_equivalence": L1,
        "test_elastic_net_vs_l1_l2": L1,
        "test_LogisticRegression_elastic_net_objective": L1,
        "test_LogisticRegressionCV_GridSearchCV_elastic_net": L1,
        "test_LogisticRegressionCV_no_refit[2-l1_ratios1]": L1,
        "test_LogisticRegressionCV_no_refit[3-l1_ratios1]": L1,
        "test_LogisticRegressionCV_elasticnet_attribute_shapes": L1,
        "test_LogisticRegressionCV_on_folds": PATHS,
        "test_l1_ratio_non_elasticnet": L1,
        "test_elastic_net_versus_sgd": L1,
        "test_penalty_none": UNPENALISED,
        "test_c_inf_no_warning": UNPENALISED,
        "test_logisticregression_liblinear_sample_weight[42-params0]": L1,
        "test_logisticregression_liblinear_sample_weight[42-params1]": DUAL,
        "test_scores_attribute_layout_elasticnet": L1,
        "test_large_sparse_matrix": SPARSE,
        "test_liblinear_with_large_values": LARGE,
        "test_liblinear_not_stuck": L1,
        "test_lr_cv_scores_differ_when_sample_weight_is_requested": ROUTING,
        "test_passing_params_without_enabling_metadata_routing": ROUTING,
        "test_newton_cholesky_fallback_to_lbfgs": WORDS,
        "test_liblinear_multiclass_raises": SOLVER,
        "test_penalty_deprecated": DEPRECATED,
        "test_logisticregressioncv_warns_with_use_legacy_attributes": DEPRECATED,
        "test_l1_ratio_None_deprecated": DEPRECATED,
        "test_logisticregression_warns_with_n_jobs": DEPRECATED,
        "test_lr_penalty_l1ratio_incompatible": L1,
        "test_lr_scoring_warns": DEPRECATED,
        "test_get_default_scorer": PRIVATE,
        "test_logistic_regression_callback_support": CALLBACKS,
        "test_logistic_regression_callback_fitted_estimator": CALLBACKS,
        "test_logistic_regression_callback_support_warning": CALLBACKS,
    }
)
"""Test of sklearn.linear_model.tests.test_logistic -> reason."""
